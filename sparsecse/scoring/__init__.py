"""Score every head and neuron: the paper's contribution and its rivals."""

from sparsecse.scoring.baselines import magnitude, random
from sparsecse.scoring.scores import Scores
from sparsecse.scoring.taylor import PRECISIONS, Objective, check_precision, contributions, resolved_precision

METHODS = ("taylor", "magnitude", "random")

__all__ = [
    "METHODS",
    "PRECISIONS",
    "Objective",
    "Scores",
    "check_precision",
    "contributions",
    "magnitude",
    "random",
    "resolved_precision",
]
