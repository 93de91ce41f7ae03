"""Sentences, pairs, triplets, labelled sentences: named sets, SentEval folders, table and text files, the demo."""

from sparsecse.datasets.pairs import PAIR_SETS, SetNotFoundError, load_pairs
from sparsecse.datasets.sentences import draw_sentences, load_sentences
from sparsecse.datasets.sets import LabelledSplit, PairSet, TransferSet, TripletSet
from sparsecse.datasets.transfer import TRANSFER_SETS, load_transfer
from sparsecse.datasets.triplets import load_triplets
from sparsecse.datasets.views import DropoutViews, dropout_views, graded_pairs, views_of

__all__ = [
    "PAIR_SETS",
    "TRANSFER_SETS",
    "DropoutViews",
    "LabelledSplit",
    "PairSet",
    "SetNotFoundError",
    "TransferSet",
    "TripletSet",
    "draw_sentences",
    "dropout_views",
    "graded_pairs",
    "load_pairs",
    "load_sentences",
    "load_transfer",
    "load_triplets",
    "views_of",
]
