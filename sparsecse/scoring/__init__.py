"""Score every head and neuron: the paper's contribution and its rivals."""

from sparsecse.scoring.baselines import l1, magnitude, random
from sparsecse.scoring.gradients import objective_value
from sparsecse.scoring.methods import METHODS, Method, scoring_method
from sparsecse.scoring.oracle import (
    TABLE_FILE,
    Removal,
    Structure,
    leave_one_out,
    leave_one_out_scores,
    neuron_groups,
    single_heads,
)
from sparsecse.scoring.scores import Scores
from sparsecse.scoring.settings import (
    POSITIVES,
    PRECISIONS,
    Objective,
    ScoringSettings,
    check_precision,
    resolved_precision,
)
from sparsecse.scoring.taylor import contributions

__all__ = [
    "METHODS",
    "POSITIVES",
    "PRECISIONS",
    "TABLE_FILE",
    "Method",
    "Objective",
    "Removal",
    "Scores",
    "ScoringSettings",
    "Structure",
    "check_precision",
    "contributions",
    "l1",
    "leave_one_out",
    "leave_one_out_scores",
    "magnitude",
    "neuron_groups",
    "objective_value",
    "random",
    "resolved_precision",
    "scoring_method",
    "single_heads",
]
