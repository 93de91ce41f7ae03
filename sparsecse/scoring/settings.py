"""What a scoring method is told: the objective, the seed, how much at a time, and in which precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.kernels.dispatch import fast_bfloat16

PRECISIONS = ("auto", "float32", "bfloat16")
POSITIVES = ("gold", "dropout")


@dataclass(frozen=True)
class Objective:
    """L = weight * align + (1 - weight) * uniform, over the whole set.

    alignment_weight: lambda, 0 to 1.
    temperature: t of the uniformity's exp(-t * squared distance).
    positive_minimum: gold similarity (0 to 5) from which a pair counts as positive.
    """

    alignment_weight: float = 0.5
    temperature: float = 2.0
    positive_minimum: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.alignment_weight <= 1:
            raise InputError(f"--lambda {self.alignment_weight} is outside 0 to 1.")


@dataclass(frozen=True)
class ScoringSettings:
    """Settings of all scoring methods together; each uses some, as its `Method` says.

    Attributes:
        batch_size: sentences of average length in a pass; no method's result depends on it, up to rounding, except that
            it decides the masks of dropout positives.
        precision: one of `PRECISIONS`; see `resolved_precision`.
        group_size: neurons that leave-one-out removes together.
        partial: folder that an interrupted leave-one-out goes on from; None keeps nothing.
        positives: one of `POSITIVES`: pairs with a high gold score, or each sentence with itself under another dropout
            mask; None is gold where the data has gold scores, dropout where not.
        dropout: probability of dropout positives; None is the model's own, or 0.1 where that is 0.
        limit: the most sentences that dropout positives are made of.
    """

    objective: Objective = field(default_factory=Objective)
    seed: int = 0
    batch_size: int = 64
    precision: str = "auto"
    group_size: int = 64
    partial: Path | None = None
    positives: str | None = None
    dropout: float | None = None
    limit: int = 3000

    def __post_init__(self) -> None:
        if self.positives is not None and self.positives not in POSITIVES:
            raise InputError(f"--positives '{self.positives}' is unknown; choose one of {', '.join(POSITIVES)}.")
        if self.dropout is not None and not 0 < self.dropout < 1:
            raise InputError(
                f"--dropout {self.dropout:g} makes no two views of a sentence; give a number above 0 and below 1."
            )
        if self.limit < 2:
            raise InputError(f"--limit {self.limit} is below 2, the fewest sentences that have a uniformity.")
        check_precision(self.precision)
        if self.group_size < 1:
            raise InputError(f"--group-size {self.group_size} is below 1, the fewest neurons that can leave together.")


def check_precision(precision: str) -> None:
    """Raise `InputError` for a word that is not one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise InputError(f"--precision '{precision}' is unknown; choose one of {', '.join(PRECISIONS)}.")


def resolved_precision(encoder: Encoder, precision: str = "auto") -> str:
    """What an encoder is scored in, "float32" (its own precision, whatever that is) or "bfloat16".

    auto is bfloat16 for a float32 encoder on a CPU that multiplies it well faster (AMX, for one).
    Weights and activations are bfloat16 then; sums inside operators, the objective and the totals are not. On
    all-MiniLM-L6-v2 and STS-B dev the ranks of heads and of neurons correlate with float32's by more than 0.9998.
    """
    check_precision(precision)
    if precision != "auto":
        return precision
    could = encoder.model.dtype == torch.float32 and encoder.device.type == "cpu"
    return "bfloat16" if could and fast_bfloat16() else "float32"
