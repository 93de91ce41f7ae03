"""Train dense SimCSE encoders and repair pruned ones."""

from typing import TYPE_CHECKING

from sparsecse.lazy import lazy_names

if TYPE_CHECKING:
    from sparsecse.training.loop import StepReport, TrainingResult, train
    from sparsecse.training.losses import Example
    from sparsecse.training.settings import OBJECTIVES, SIMCSE, TrainingSettings, parse_objective
else:
    __all__, __getattr__, __dir__ = lazy_names(__name__)
