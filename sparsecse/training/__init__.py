"""Train dense SimCSE encoders and repair pruned ones."""

from sparsecse.training.loop import StepReport, TrainingResult, train
from sparsecse.training.losses import Example
from sparsecse.training.settings import OBJECTIVES, TrainingSettings, parse_objective

__all__ = [
    "OBJECTIVES",
    "Example",
    "StepReport",
    "TrainingResult",
    "TrainingSettings",
    "parse_objective",
    "train",
]
