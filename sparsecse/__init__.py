"""Structured pruning of sentence-embedding encoders by contribution to alignment and uniformity (SparseCSE).

Importing this package makes `AutoModel` and `SentenceTransformer` load packed folders without `trust_remote_code`.
"""

from pathlib import Path as _Path

from sparsecse.runtime.registration import register_when_loaded

__version__ = "0.1.0"

# An installed package holds its kernels and its command line; in a source tree on PYTHONPATH they lie beside it.
_source_tree = _Path(__file__).resolve().parents[1]
if (_source_tree / "pyproject.toml").is_file() and (_source_tree / "kernels").is_dir():
    __path__.append(str(_source_tree))

register_when_loaded()
