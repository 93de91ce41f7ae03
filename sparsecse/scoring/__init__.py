"""Score every head and neuron: the paper's contribution and its rivals."""

from typing import TYPE_CHECKING

from sparsecse.lazy import lazy_names

if TYPE_CHECKING:
    from sparsecse.scoring.baselines import l1, magnitude, random
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
    from sparsecse.scoring.precision import resolved_precision
    from sparsecse.scoring.scores import Scores
    from sparsecse.scoring.settings import POSITIVES, PRECISIONS, Objective, ScoringSettings, check_precision
    from sparsecse.scoring.taylor import contributions
    from sparsecse.scoring.whole_set import objective_value
else:
    __all__, __getattr__, __dir__ = lazy_names(__name__)
