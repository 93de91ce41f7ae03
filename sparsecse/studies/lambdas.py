"""How alignment and uniformity are weighed in the score: lambda from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from sparsecse.cells.cells import Cell
from sparsecse.studies.drawing import finish_axes
from sparsecse.studies.intervals import interval_text
from sparsecse.studies.setup import Setup
from sparsecse.studies.study import Results, Study

LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0)
SPARSITIES = (0.05, 0.1, 0.2, 0.3, 0.5)


def cells(setup: Setup) -> list[Cell]:
    """Each lambda at each sparsity, without repair and, where there is one, with it."""

    def measure(weight: float, sparsity: float, repaired: bool, key: str) -> dict[str, Any]:
        scores = setup.scores(weight=weight)
        encoder = setup.repaired_cut(setup.mask(scores, sparsity)) if repaired else setup.cut(scores, sparsity)
        measured = setup.measure(encoder, key)
        change = {"change": setup.interval(key, "dense")} if sparsity else {}
        return {"lambda": weight, "sparsity": sparsity, "repaired": repaired, **measured, **change}

    found = [Cell("dense", lambda: measure(0.5, 0.0, False, "dense"))]
    for repaired in (False, True) if setup.settings.training is not None else (False,):
        for sparsity in setup.settings.sparsities or SPARSITIES:
            for weight in LAMBDAS:
                key = f"{weight:g}/{sparsity:g}" + ("/repaired" if repaired else "")
                found.append(Cell(key, partial(measure, weight, sparsity, repaired, key)))
    return found


def _pruned(results: Results) -> list[Any]:
    return [cell for key, cell in results.items() if key != "dense"]


def _lines(results: Results) -> dict[tuple[bool, float], list[Any]]:
    """The cells of each (repaired, sparsity), in that order."""
    found: dict[tuple[bool, float], list[Any]] = {}
    for cell in _pruned(results):
        found.setdefault((cell.get("repaired", False), cell["sparsity"]), []).append(cell)
    return dict(sorted(found.items()))


def _label(line: tuple[bool, float]) -> str:
    repaired, sparsity = line
    return f"{sparsity:.0%}{', repaired' if repaired else ''}"


def table(results: Results) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Lambda down, sparsity across, without repair first: the change of the mean against dense."""
    weights = sorted({cell["lambda"] for cell in _pruned(results)})
    lines = _lines(results)
    by = {(cell["lambda"], line): cell["change"] for line, own in lines.items() for cell in own}
    rows = [[f"{weight:g}", *(interval_text(by.get((weight, line))) for line in lines)] for weight in weights]
    return ["lambda", *map(_label, lines)], rows


def paragraph(results: Results) -> str:
    """The best lambda on the test tasks and on dev, averaged over the sparsities, without repair and with it."""
    sentences = []
    for repaired in (False, True):
        own = [cell for line, cells in _lines(results).items() if line[0] == repaired for cell in cells]
        if own:
            label = "With repair" if repaired else "Without repair"
            sentences.append(f"{label}: {_best(own, results['dense']['mean'])}")
    return " ".join(sentences)


def _best(cells: Sequence[Any], dense: float) -> str:
    weights = sorted({cell["lambda"] for cell in cells})

    def mean(weight: float, name: str) -> float:
        values = [cell[name] for cell in cells if cell["lambda"] == weight]
        return sum(values) / len(values)

    best, chosen = (max(weights, key=lambda weight: mean(weight, name)) for name in ("mean", "dev"))
    ends = ", ".join(f"{weight:g}: {mean(weight, 'mean') - dense:+.2f}" for weight in weights)
    alone = [mean(weight, "mean") - mean(0.5, "mean") for weight in (1.0, 0.0)]
    return (
        f"averaged over the sparsities, the change of the mean against dense is, by lambda, {ends}. The best lambda on "
        f"the test tasks is {best:g}; dev would choose {chosen:g}. Alignment alone (1) and uniformity alone (0) differ "
        f"from the even mix by {alone[0]:+.2f} and {alone[1]:+.2f}."
    )


def draw(results: Results, axes: Any) -> None:
    """A line for each sparsity over lambda."""
    for line, cells in _lines(results).items():
        points = sorted((cell["lambda"], cell["mean"]) for cell in cells)
        axes.plot(*zip(*points, strict=True), "-" if line[0] else ":", marker="o", label=_label(line))
    finish_axes(axes, "lambda: weight of alignment against uniformity", results["dense"]["mean"], title="removed")


STUDY = Study("Alignment against uniformity in the score", cells, paragraph, table, draw)
