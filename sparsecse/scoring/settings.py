"""What a scoring method is told: the objective, the seed, how much at a time, and in which precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.kernels.dispatch import fast_bfloat16

PRECISIONS = ("auto", "float32", "bfloat16")


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

    batch_size: sentences of average length in a pass; no method's result depends on it, up to rounding.
    precision: one of `PRECISIONS`; see `resolved_precision`.
    group_size: neurons that leave-one-out removes together.
    partial: folder that an interrupted leave-one-out goes on from; None keeps nothing.
    """

    objective: Objective = field(default_factory=Objective)
    seed: int = 0
    batch_size: int = 64
    precision: str = "auto"
    group_size: int = 64
    partial: Path | None = None

    def __post_init__(self) -> None:
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
