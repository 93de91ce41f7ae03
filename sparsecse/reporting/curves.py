"""The curve of quality against sparsity that `--sparsity auto` chose from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsecse.reporting.facts import Curve, Line


def dev_curve(info: Mapping[str, Any], tolerance: float, *, taken: bool) -> Curve:
    """What stage `choose` measured; info, tolerance: of its record. taken: whether the newest cut follows it."""
    points = info["curve"]
    dense = next(point["dev"] for point in points if not point["sparsity"])
    lines = []
    for kind, figure in dense.items():
        changes = [(100 * point["sparsity"], point["dev"][kind] - figure) for point in points]
        lines.append(Line(kind, tuple((x, y, y, y) for x, y in changes)))
    return Curve(
        "On dev, before any repair",
        f"Dev: {info['dev']}. `--sparsity auto` takes the largest sparsity at which no kind lies more than "
        f"{tolerance:g} points below dense.",
        tuple(lines),
        ["removed", *dense],
        [[f"{point['sparsity']:.1%}", *(f"{value:.2f}" for value in point["dev"].values())] for point in points],
        100 * info["sparsity"] if taken else None,
        tolerance,
    )
