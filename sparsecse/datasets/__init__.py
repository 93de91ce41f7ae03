"""Sentences, pairs, triplets, labelled, retrieval and reranking sets: named, from folders and files, and the demo."""

from sparsecse.datasets.pairs import PAIR_SETS, SetNotFoundError, load_pairs
from sparsecse.datasets.reranking import load_reranking
from sparsecse.datasets.retrieval import draw_retrieval, load_retrieval
from sparsecse.datasets.sentences import draw_sentences, load_sentences
from sparsecse.datasets.sets import LabelledSplit, PairSet, RerankingSet, RetrievalSet, TransferSet, TripletSet
from sparsecse.datasets.transfer import TRANSFER_SETS, load_transfer
from sparsecse.datasets.triplets import load_triplets
from sparsecse.datasets.views import DropoutViews, dropout_views, graded_pairs, views_of

__all__ = [
    "PAIR_SETS",
    "TRANSFER_SETS",
    "DropoutViews",
    "LabelledSplit",
    "PairSet",
    "RerankingSet",
    "RetrievalSet",
    "SetNotFoundError",
    "TransferSet",
    "TripletSet",
    "draw_retrieval",
    "draw_sentences",
    "dropout_views",
    "graded_pairs",
    "load_pairs",
    "load_reranking",
    "load_retrieval",
    "load_sentences",
    "load_transfer",
    "load_triplets",
    "views_of",
]
