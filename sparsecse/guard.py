"""The rule that chooses by dev figures: nothing labelled may be lost, then the largest gain over all kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsecse.errors import InputError
from sparsecse.settings import setting

SIMILARITY, RETRIEVAL, AGREEMENT = "similarity", "retrieval", "agreement"
"""The kinds of dev sets, see `evaluation.dev`; all but agreement have labels."""

TOLERANCE = 0.3

Figures = Mapping[str, float]
"""The mean, x100, over the dev sets of each kind."""


def tolerance_setting() -> Any:
    """The field `tolerance` of all settings of choices on dev; see `check_tolerance`."""
    return setting(
        TOLERANCE,
        "Points (x100) that similarity and retrieval on dev may each lie below the dense model.",
    )


def check_tolerance(tolerance: float) -> None:
    """Refuse a tolerance below 0."""
    if not tolerance >= 0:
        raise InputError(f"`tolerance` {tolerance:g} is below 0; give how many points, x100, may be lost.")


@dataclass(frozen=True)
class Guard:
    """The rule, with the dense model's figures.

    A candidate is allowed where no labelled kind lies more than `tolerance` below dense. Of the allowed the one with
    the largest mean over the kinds wins, each kind as its difference to dense. Where none is allowed it is the one
    whose worst labelled kind lies least below dense. Agreement counts in the mean only: dense's 100 is no bar.
    """

    dense: Figures
    tolerance: float = TOLERANCE

    def shortfall(self, figures: Figures) -> float:
        """How far the worst labelled kind lies below dense, below 0 where all are above; 0 without labels."""
        return max((self.dense[kind] - figure for kind, figure in figures.items() if kind != AGREEMENT), default=0.0)

    def allows(self, figures: Figures) -> bool:
        """Whether no labelled kind has fallen by more than the tolerance."""
        return self.shortfall(figures) <= self.tolerance

    def gain(self, figures: Figures) -> float:
        """The mean over the kinds of the difference to dense."""
        return sum(figure - self.dense[kind] for kind, figure in figures.items()) / len(figures)

    def rank(self, figures: Figures) -> tuple[bool, float]:
        """What orders candidates, the best last: whether it is allowed, then points above dense."""
        allowed = self.allows(figures)
        return allowed, self.gain(figures) if allowed else -self.shortfall(figures)


def figures_text(figures: Figures) -> str:
    """`similarity 86.73, retrieval 41.90`."""
    return ", ".join(f"{kind} {figure:.2f}" for kind, figure in figures.items())
