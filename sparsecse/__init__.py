"""Structured pruning of sentence-embedding encoders by contribution to alignment and uniformity (SparseCSE).

The names below are loaded when they are first used: importing this package takes a few hundredths of a second. It also
makes `AutoModel` and `SentenceTransformer` load packed folders without `trust_remote_code`.
"""

from pathlib import Path as _Path
from typing import TYPE_CHECKING

from sparsecse.lazy import lazy_names
from sparsecse.runtime.registration import register_when_loaded
from sparsecse.version import __version__ as __version__

if TYPE_CHECKING:
    from sparsecse.compression import compress, distill, prune, score
    from sparsecse.corpora import encode_corpus, load_embeddings
    from sparsecse.encoders import Encoder, load_encoder
    from sparsecse.errors import InputError
    from sparsecse.evaluation.evaluate import evaluate
    from sparsecse.packing import pack
    from sparsecse.pruning.masks import Budget, Mask
    from sparsecse.runtime import Runtime, accelerate
    from sparsecse.scoring import Scores
else:
    __all__, __getattr__, __dir__ = lazy_names(__name__)


# An installed package holds its kernels and its command line; in a source tree on PYTHONPATH they lie beside it.
_source_tree = _Path(__file__).resolve().parents[1]
if (_source_tree / "pyproject.toml").is_file() and (_source_tree / "kernels").is_dir():
    __path__.append(str(_source_tree))

register_when_loaded()
