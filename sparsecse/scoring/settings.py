"""What a scoring method is told: the objective, the seed, how much at a time, and in which precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sparsecse.errors import InputError
from sparsecse.settings import at_least, checked_widths, choose, documented, setting, widths_setting

PRECISIONS = ("auto", "float32", "bfloat16")
POSITIVES = ("gold", "dropout")


@documented
@dataclass(frozen=True)
class Objective:
    """L = weight * align + (1 - weight) * uniform, over the whole set; its mean over widths where there are several.

    temperature: t of the uniformity's exp(-t * squared distance).
    """

    alignment_weight: float = setting(0.5, "Weight of alignment against uniformity, 0 to 1.", "--lambda")
    temperature: float = 2.0
    positive_minimum: float = setting(4.0, "Gold score (0 to 5) from which a pair is positive.")
    matryoshka_dims: tuple[int, ...] = widths_setting(
        "Widths at which vectors are to be good: 384,256,128. The objective is its mean over vectors cut to them; by "
        "default that of whole vectors."
    )

    def __post_init__(self) -> None:
        if not 0 <= self.alignment_weight <= 1:
            raise InputError(f"`alignment_weight` {self.alignment_weight} is outside 0 to 1.")
        object.__setattr__(self, "matryoshka_dims", checked_widths(self.matryoshka_dims))


@documented
@dataclass(frozen=True)
class ScoringSettings:
    """Settings of all scoring methods together; each uses some, as its `Method` says.

    No method's result depends on `batch_size`, up to rounding, except that it decides the masks of dropout positives.

    partial: folder that an interrupted leave-one-out goes on from; None keeps nothing.
    """

    objective: Objective = field(default_factory=Objective)
    seed: int = setting(0, "Seed of everything random.")
    batch_size: int = setting(64, "Sentences of average length per forward pass.")
    precision: str = setting("auto", "Of the passes over data: float32, bfloat16, or auto: bfloat16 where it is fast.")
    group_size: int = setting(64, "Neurons that leave-one-out removes together.")
    partial: Path | None = None
    positives: str | None = setting(
        None,
        "What alignment brings together: gold (pairs with a high gold score) or dropout (each sentence with itself "
        "under another dropout mask); by default gold where the data has gold scores, else dropout.",
    )
    dropout: float | None = setting(
        None,
        "Probability for dropout positives; by default the model's own, or 0.1 where that is 0.",
        "--positives-dropout,--dropout",
    )
    limit: int = setting(3000, "With dropout positives: the most sentences, drawn by `seed`.")

    def __post_init__(self) -> None:
        if self.positives is not None:
            choose("positives", self.positives, POSITIVES)
        if self.dropout is not None and not 0 < self.dropout < 1:
            raise InputError(
                f"`dropout` {self.dropout:g} makes no two views of a sentence; give a number above 0 and below 1."
            )
        if self.limit < 2:
            raise InputError(f"`limit` {self.limit} is below 2, the fewest sentences that have a uniformity.")
        check_precision(self.precision)
        at_least("batch_size", self.batch_size, 1)
        if self.group_size < 1:
            raise InputError(f"`group_size` {self.group_size} is below 1, the fewest neurons that can leave together.")


def check_precision(precision: str) -> None:
    """Raise `InputError` for a word that is not one of `PRECISIONS`."""
    choose("precision", precision, PRECISIONS)
