"""Score every head and neuron: the paper's contribution and its rivals."""

from sparsecse.scoring.baselines import magnitude, random
from sparsecse.scoring.scores import Scores
from sparsecse.scoring.taylor import Objective, contributions

METHODS = ("taylor", "magnitude", "random")

__all__ = ["METHODS", "Objective", "Scores", "contributions", "magnitude", "random"]
