"""Quality against measured speed: pruned heads and neurons, dropped layers, and both, repaired with the same steps.

Other models can be put beside them, as they are: does pruning a large model beat taking a small one?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from statistics import mean
from typing import Any

from sparsecse.cells.cells import Cell
from sparsecse.encoders import Encoder
from sparsecse.evaluation import SentenceEncoder
from sparsecse.pruning.layers import best_layers, search_layers
from sparsecse.pruning.masks import Mask, keep_layers
from sparsecse.pruning.recipe import Recipe
from sparsecse.pruning.selection import select_by_recipe
from sparsecse.pruning.surgery import prune
from sparsecse.studies.drawing import finish_axes
from sparsecse.studies.intervals import interval_text
from sparsecse.studies.others import Other, weight_size
from sparsecse.studies.setup import Setup
from sparsecse.studies.study import Results, Study

SPARSITIES = (0.1, 0.17, 0.3, 0.5, 0.65, 0.8)
DEEPEST = 5.0  # points of Spearman below the dense model that are drawn
_MARKERS = "^sDvP*X"
_WIDE = 8  # speeds further apart than that are drawn on a logarithmic axis
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
    """Fewer heads and neurons, with and without whole layers among them, at each sparsity, and 5, 4, ... 1 layers.

    And the other models of the settings.
    """
    total = len(setup.dense.model.encoder.layer)

    def measured(kind: str, about: dict[str, Any], model: Encoder | SentenceEncoder, key: str) -> dict[str, Any]:
        result = {"kind": kind, **about, **setup.text_speed(model)}
        if isinstance(model, Encoder):
            result["speedup"] = setup.speedup(model)
        result |= {"bytes": weight_size(model), **setup.measure(model, key)}
        if setup.retrieval:
            result["retrieval"] = setup.found(model)
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

    def beside(other: Other) -> dict[str, Any]:
        return measured("other", {"name": other.name}, other.load(), other.key)

    found = [Cell("dense", lambda: measured("dense", {}, setup.dense, "dense"))]
    for other in setup.settings.others:  # first: one that cannot be loaded is told at once
        found.append(Cell(other.key, partial(beside, other)))
    for kept in range(total - 1, 0, -1):
        found.append(Cell(f"layers-{kept}", partial(fewer, kept, f"layers-{kept}")))
    for sparsity in setup.settings.sparsities or SPARSITIES:
        for kind, measure in (("both", both), ("pruned", structures)):
            key = f"{kind}-{sparsity:g}"
            found.append(Cell(key, partial(measure, sparsity, key)))
    return found


def _others(results: Results) -> list[Any]:
    return [cell for cell in results.values() if cell["kind"] == "other"]


def _speed(results: Results) -> str:
    """Which speed is compared: on token ids or, with other models, whose tokenizers differ, on text."""
    return "text_speedup" if _others(results) else "speedup"


def _line(results: Results, kind: str) -> list[Any]:
    speed = _speed(results)
    return sorted((cell for cell in results.values() if cell["kind"] in (kind, "dense")), key=lambda cell: cell[speed])


def table(results: Results) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """One row for each model, the slowest first."""
    speed = _speed(results)
    columns: dict[str, Callable[[Any], str]] = {
        "model": _called,
        "speed": lambda cell: f"{cell[speed]:.2f}x",
        "sentences/s": lambda cell: f"{cell['sentences_per_second']:.0f}",
        "MB": lambda cell: f"{cell['bytes'] / 1e6:.1f}",
        "dev": lambda cell: f"{cell['dev']:.2f}",
        "mean": lambda cell: f"{cell['mean']:.2f}",
        "change (95 %)": lambda cell: interval_text(cell.get("change")),
        "nDCG@10": lambda cell: f"{mean(cell['retrieval'].values()):.2f}",
    }
    for name, key in {"sentences/s": "sentences_per_second", "MB": "bytes", "nDCG@10": "retrieval"}.items():
        if not all(key in cell for cell in results.values()):
            del columns[name]
    ordered = sorted(results.values(), key=lambda cell: (cell["kind"], cell[speed]))
    return list(columns), [[write(cell) for write in columns.values()] for cell in ordered]


def _called(cell: Any) -> str:
    if cell["kind"] == "dense":
        return "dense"
    if cell["kind"] == "other":
        return str(cell["name"])
    if cell["kind"] == "layers":
        return f"layers {cell['layers']}"
    if cell["kind"] == "pruned":
        return f"{cell['sparsity']:.0%} of heads and neurons"
    return f"{cell['sparsity']:.0%}, layers {cell['layers']} left"


def at_speed(line: Sequence[Any], speed: float, key: str = "speedup") -> float | None:
    """The mean at a speed, between the measured models on both sides of it; None outside them."""
    for below, above in pairwise(line):
        if below[key] <= speed <= above[key]:
            share = (speed - below[key]) / max(1e-9, above[key] - below[key])
            return below["mean"] + share * (above["mean"] - below["mean"])
    return None


def paragraph(results: Results) -> str:
    """Who is ahead at which speed, read off between the measured points."""
    sentences = []
    speeds = (1.2, 1.5, 2.0, 2.5, 3.0)
    key = _speed(results)
    for kind in ("both", "pruned"):
        parts = []
        for speed in speeds:
            ours, theirs = (at_speed(_line(results, one), speed, key) for one in (kind, "layers"))
            if ours is not None and theirs is not None:
                parts.append(f"at {speed:g}x {ours - theirs:+.2f}")
        if parts:
            sentences.append(
                f"Pruned {KINDS[kind]} against dropped layers at equal speed (mean Spearman, interpolated): "
                f"{', '.join(parts)}."
            )
    if not sentences:
        named = ", ".join(f"{speed:g}x" for speed in speeds)
        sentences.append(
            f"Nothing can be compared at equal speed: no pruned and thinned models lie around any of {named}."
        )
    return " ".join([*sentences, *(_beside(results, other) for other in _others(results))])


def _beside(results: Results, other: Any) -> str:
    """What another model gives, and what the best pruned one gives at its speed."""
    speed = other["text_speedup"]
    what = f"{other['name']} has {other['mean']:.2f} at {speed:.2f} times the dense model's speed"
    found = [at_speed(_line(results, kind), speed, "text_speedup") for kind in KINDS]
    means = [one for one in found if one is not None]
    if not means:
        return f"{what}, where no pruned model was measured."
    return f"{what}; the best pruned model there, interpolated, is at {max(means) - other['mean']:+.2f} from it."


def draw(results: Results, axes: Any) -> None:
    """A line for each kind, from the dense model on, and a point for each other model."""
    speed, others = _speed(results), _others(results)
    for kind, label in KINDS.items():
        line = _line(results, kind)
        axes.plot([c[speed] for c in line], [c["mean"] for c in line], marker="o", label=f"{label}, repaired")
    for number, cell in enumerate(others):
        label = f"{cell['name']}, {cell['bytes'] / 1e6:.3g} MB"
        axes.plot([cell[speed]], [cell["mean"]], _MARKERS[number % len(_MARKERS)], markersize=9, label=label)
    dense = results["dense"]["mean"]
    own = [cell["mean"] for cell in results.values() if cell["kind"] != "other"]
    if min(own) < dense - DEEPEST:  # one ruined model would flatten all the rest
        axes.set_ylim(bottom=min([dense - DEEPEST, *(cell["mean"] - 0.5 for cell in others)]))
    speeds = [cell[speed] for cell in results.values()]
    if max(speeds) > _WIDE * min(speeds):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    timed = "texts, tokenization included" if others else "token ids"
    # Below the axes, so that it hides no point however many models there are.
    legend = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "ncols": 2, "fontsize": 9}
    finish_axes(axes, f"times as fast as the dense model ({timed}, float32, CPU)", dense, **legend)


STUDY = Study("Quality against measured speed", cells, paragraph, table, draw)
