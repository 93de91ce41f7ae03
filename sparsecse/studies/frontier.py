"""Quality against measured speed: pruned heads and neurons, dropped layers, and both, repaired with the same steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

from sparsecse.encoders import Encoder
from sparsecse.pruning.layers import best_layers, search_layers
from sparsecse.pruning.masks import Mask, keep_layers
from sparsecse.pruning.recipe import Recipe
from sparsecse.pruning.selection import select_by_recipe
from sparsecse.pruning.surgery import prune
from sparsecse.studies.drawing import finish_axes
from sparsecse.studies.intervals import interval_text
from sparsecse.studies.setup import Setup
from sparsecse.studies.study import Cell, Results, Study

SPARSITIES = (0.1, 0.17, 0.3, 0.5, 0.65, 0.8)
DEEPEST = 5.0  # points of Spearman below the dense model that are drawn
KINDS = {
    "both": "heads, neurons and whole layers",
    "pruned": "heads and neurons",
    "layers": "whole layers, spread evenly",
}


def spread_layers(total: int, kept: int) -> tuple[int, ...]:
    """Which layers stay when a stack is thinned evenly, the first and the last among them where two or more stay."""
    if kept == 1:
        return (0,)
    return tuple(round(i * (total - 1) / (kept - 1)) for i in range(kept))


def cells(setup: Setup) -> list[Cell]:
    """Fewer heads and neurons, with and without whole layers among them, at each sparsity, and 5, 4, ... 1 layers."""
    total = len(setup.dense.model.encoder.layer)

    def measured(kind: str, about: dict[str, Any], encoder: Encoder, key: str) -> dict[str, Any]:
        speed = setup.speedup(encoder)
        result = {"kind": kind, **about, **setup.measure(encoder, key), "speedup": speed}
        if kind != "dense":
            result["change"] = setup.interval(key, "dense")
        return result

    def pruned(kind: str, about: dict[str, Any], mask: Mask, key: str) -> dict[str, Any]:
        return measured(kind, {**about, "kept": mask.kept()}, setup.repaired_cut(mask), key)

    def structures(sparsity: float, key: str) -> dict[str, Any]:
        return pruned("pruned", {"sparsity": sparsity}, setup.mask(setup.scores(), sparsity), key)

    def both(sparsity: float, key: str) -> dict[str, Any]:
        cut = Recipe(sparsity=sparsity, layers_compete=True, reconstruct=True)
        layers = best_layers(search_layers(setup.ensemble, cut, progress=setup.progress), setup.ensemble.dev)
        scores = setup.scores()
        mask = select_by_recipe(replace(cut, layers=layers), scores, scores.sizes())
        return pruned("both", {"sparsity": sparsity, "layers": list(layers)}, mask, key)

    def fewer(kept: int, key: str) -> dict[str, Any]:
        layers = spread_layers(total, kept)
        encoder = prune(setup.dense, keep_layers(None, setup.dense.model.config.layer_sizes(), layers))
        setup.repaired(encoder)
        return measured("layers", {"layers": list(layers)}, encoder, key)

    found = [Cell("dense", lambda: measured("dense", {}, setup.dense, "dense"))]
    for kept in range(total - 1, 0, -1):
        found.append(Cell(f"layers-{kept}", partial(fewer, kept, f"layers-{kept}")))
    for sparsity in setup.settings.sparsities or SPARSITIES:
        for kind, measure in (("both", both), ("pruned", structures)):
            key = f"{kind}-{sparsity:g}"
            found.append(Cell(key, partial(measure, sparsity, key)))
    return found


def _line(results: Results, kind: str) -> list[Any]:
    return sorted(
        (cell for cell in results.values() if cell["kind"] in (kind, "dense")), key=lambda cell: cell["speedup"]
    )


def table(results: Results) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """One row for each model, the slowest first."""
    rows = []
    for cell in sorted(results.values(), key=lambda cell: (cell["kind"], cell["speedup"])):
        what = {
            "dense": "dense",
            "layers": f"layers {cell.get('layers')}",
            "pruned": f"{cell.get('sparsity', 0):.0%} of heads and neurons",
            "both": f"{cell.get('sparsity', 0):.0%}, layers {cell.get('layers')} left",
        }
        rows.append(
            [
                what[cell["kind"]],
                f"{cell['speedup']:.2f}x",
                f"{cell['dev']:.2f}",
                f"{cell['mean']:.2f}",
                interval_text(cell.get("change")),
            ]
        )
    return ["model", "speed", "dev", "mean", "change (95 %)"], rows


def at_speed(line: Sequence[Any], speed: float) -> float | None:
    """The mean at a speed, between the measured models on both sides of it; None outside them."""
    for below, above in pairwise(line):
        if below["speedup"] <= speed <= above["speedup"]:
            share = (speed - below["speedup"]) / max(1e-9, above["speedup"] - below["speedup"])
            return below["mean"] + share * (above["mean"] - below["mean"])
    return None


def paragraph(results: Results) -> str:
    """Who is ahead at which speed, read off between the measured points."""
    sentences = []
    speeds = (1.2, 1.5, 2.0, 2.5, 3.0)
    for kind in ("both", "pruned"):
        parts = []
        for speed in speeds:
            ours, theirs = (at_speed(_line(results, one), speed) for one in (kind, "layers"))
            if ours is not None and theirs is not None:
                parts.append(f"at {speed:g}x {ours - theirs:+.2f}")
        if parts:
            sentences.append(
                f"Pruned {KINDS[kind]} against dropped layers at equal speed (mean Spearman, interpolated): "
                f"{', '.join(parts)}."
            )
    if not sentences:
        named = ", ".join(f"{speed:g}x" for speed in speeds)
        return f"Nothing can be compared at equal speed: no pruned and thinned models lie around any of {named}."
    return " ".join(sentences)


def draw(results: Results, axes: Any) -> None:
    """A line for each kind, from the dense model on."""
    for kind, label in KINDS.items():
        line = _line(results, kind)
        axes.plot([c["speedup"] for c in line], [c["mean"] for c in line], marker="o", label=f"{label}, repaired")
    dense = results["dense"]["mean"]
    if min(cell["mean"] for cell in results.values()) < dense - DEEPEST:  # one ruined model would flatten all the rest
        axes.set_ylim(bottom=dense - DEEPEST)
    finish_axes(axes, "times as fast as the dense model (same runtime, float32)", dense)


STUDY = Study("Quality against measured speed", cells, paragraph, table, draw)
