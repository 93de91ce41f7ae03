"""Score every head and neuron: the paper's contribution and its rivals."""

from sparsecse.scoring.activation import activation
from sparsecse.scoring.baselines import l1, magnitude, random
from sparsecse.scoring.fisher import fisher, fisher_block
from sparsecse.scoring.leave_one_out import (
    TABLE_FILE,
    Removal,
    Structure,
    leave_one_out,
    leave_one_out_scores,
    neuron_groups,
    single_heads,
)
from sparsecse.scoring.methods import METHODS, Method, scoring_method
from sparsecse.scoring.scores import Scores
from sparsecse.scoring.settings import PRECISIONS, Objective, ScoringSettings, check_precision, resolved_precision
from sparsecse.scoring.taylor import contributions, taylor_batch, taylor_mixed

__all__ = [
    "METHODS",
    "PRECISIONS",
    "TABLE_FILE",
    "Method",
    "Objective",
    "Removal",
    "Scores",
    "ScoringSettings",
    "Structure",
    "activation",
    "check_precision",
    "contributions",
    "fisher",
    "fisher_block",
    "l1",
    "leave_one_out",
    "leave_one_out_scores",
    "magnitude",
    "neuron_groups",
    "random",
    "resolved_precision",
    "scoring_method",
    "single_heads",
    "taylor_batch",
    "taylor_mixed",
]
