"""What the plots of studies have in common."""

from __future__ import annotations

from typing import Any


def finish_axes(axes: Any, xlabel: str, dense: float | None = None, **legend: Any) -> None:
    """Label axes on which the mean of the test tasks is drawn upwards.

    Args:
        axes: of matplotlib, with its lines.
        dense: the dense model's mean, drawn as a line across; None where there are several.
        legend: keyword arguments of `axes.legend`.
    """
    if dense is not None:
        axes.axhline(dense, color="black", linewidth=1, linestyle="--", label="dense")
    axes.set_xlabel(xlabel)
    axes.set_ylabel("mean Spearman x100 of the test tasks")
    axes.legend(**legend)
    axes.grid(alpha=0.3)
