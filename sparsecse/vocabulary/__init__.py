"""A vocabulary cut to what a corpus needs: count, choose, rewrite the tokenizer, shrink the embeddings."""

from sparsecse.vocabulary.choice import choose_vocabulary
from sparsecse.vocabulary.corpus import Corpus
from sparsecse.vocabulary.counting import HELD_OUT_EVERY, Coverage, TokenCounts, count_tokens, measure_coverage
from sparsecse.vocabulary.displacement import displacement
from sparsecse.vocabulary.pruning import VocabularyReport, fit_vocabulary, prune_vocabulary
from sparsecse.vocabulary.rewriting import rewrite_tokenizer

__all__ = [
    "HELD_OUT_EVERY",
    "Corpus",
    "Coverage",
    "TokenCounts",
    "VocabularyReport",
    "choose_vocabulary",
    "count_tokens",
    "displacement",
    "fit_vocabulary",
    "measure_coverage",
    "prune_vocabulary",
    "rewrite_tokenizer",
]
