"""Structured pruning of sentence-embedding encoders by contribution to alignment and uniformity (SparseCSE).

Importing this package makes `AutoModel` and `SentenceTransformer` load packed folders without `trust_remote_code`.
"""

from sparsecse.registration import register_when_loaded

__version__ = "0.1.0"

register_when_loaded()
