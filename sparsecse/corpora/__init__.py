"""A corpus embedded into a folder of shards that can be resumed."""

from typing import TYPE_CHECKING

from sparsecse.lazy import lazy_names

if TYPE_CHECKING:
    from sparsecse.corpora.encode import encode_corpus
    from sparsecse.corpora.folder import load_embeddings
    from sparsecse.corpora.settings import CorpusSettings
else:
    __all__, __getattr__, __dir__ = lazy_names(__name__)
