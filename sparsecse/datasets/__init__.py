"""Sentences, pairs and triplets: named sets, SentEval folders, table and text files, and the built-in demo."""

from sparsecse.datasets.pairs import PAIR_SETS, SetNotFoundError, load_pairs
from sparsecse.datasets.sentences import load_sentences
from sparsecse.datasets.sets import PairSet, TripletSet
from sparsecse.datasets.triplets import load_triplets

__all__ = [
    "PAIR_SETS",
    "PairSet",
    "SetNotFoundError",
    "TripletSet",
    "load_pairs",
    "load_sentences",
    "load_triplets",
]
