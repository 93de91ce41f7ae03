"""Which score to prune by: the paper's against its rivals and the controls, at equal cost and with the same repair."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import Any

from sparsecse.cells.cells import Cell
from sparsecse.studies.drawing import finish_axes
from sparsecse.studies.intervals import interval_text
from sparsecse.studies.setup import Setup
from sparsecse.studies.study import Results, Study

SPARSITIES = (0.1, 0.2, 0.5, 0.8)
METHODS = ("taylor", "taylor-batch", "fisher", "activation", "magnitude", "l1", "random", "reversed")
OURS = "taylor"


def _key(method: str, sparsity: float, seed: int, repaired: bool) -> str:
    return f"{method}/{sparsity:g}/seed-{seed}" + ("/repaired" if repaired else "")


def cells(setup: Setup) -> list[Cell]:
    """Each method at each sparsity, without and with repair; the seed is the repair's, and that of random scores."""
    settings = setup.settings

    def measure(method: str, sparsity: float, seed: int, repaired: bool) -> dict[str, Any]:
        encoder = setup.cut(setup.scores(method, seed=seed if method == "random" else 0), sparsity)
        if repaired:
            setup.repaired(encoder, seed=seed)
        key = _key(method, sparsity, seed, repaired)
        measured = setup.measure(encoder, key)
        about = {"method": method, "sparsity": sparsity, "seed": seed, "repaired": repaired}
        ours = _key(OURS, sparsity, seed if repaired else 0, repaired)
        if method != OURS:
            measured["ours_ahead"] = setup.interval(ours, key)
        return {**about, **measured, "change": setup.interval(key, "dense")}

    def dense() -> dict[str, Any]:
        about = {"method": "dense", "sparsity": 0.0, "seed": 0, "repaired": False}
        return {**about, **setup.measure(setup.dense, "dense")}

    found = [Cell("dense", dense)]
    methods = settings.methods or METHODS
    for sparsity in settings.sparsities or SPARSITIES:
        for repaired in (False, True) if settings.training is not None else (False,):
            for method in dict.fromkeys((OURS, *methods)):
                seeds = settings.seeds or 1
                for seed in range(seeds if repaired or method == "random" else 1):
                    arguments = (method, sparsity, seed, repaired)
                    found.append(Cell(_key(*arguments), partial(measure, *arguments)))
    return found


def _grouped(results: Results) -> dict[tuple[float, bool, str], list[Any]]:
    groups: dict[tuple[float, bool, str], list[Any]] = {}
    for cell in results.values():
        if cell["method"] != "dense":
            groups.setdefault((cell["sparsity"], cell["repaired"], cell["method"]), []).append(cell)
    return groups


def table(results: Results) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """One row for each sparsity, repair and method: the mean over seeds, its range, and how far ours is ahead."""
    dense = results["dense"]["mean"]
    header = ["sparsity", "repair", "method", "seeds", "dev", "mean", "against dense", "ours ahead by (95 %)"]
    rows = [["0%", "no", "dense", "1", f"{results['dense']['dev']:.2f}", f"{dense:.2f}", "", ""]]
    groups = sorted(
        _grouped(results).items(), key=lambda item: (item[0][0], item[0][1], -fmean([c["mean"] for c in item[1]]))
    )
    for (sparsity, repaired, method), group in groups:
        means = [cell["mean"] for cell in group]
        spread = f" ({min(means):.2f} to {max(means):.2f})" if len(means) > 1 else ""
        ahead = [cell["ours_ahead"] for cell in group if "ours_ahead" in cell]
        rows.append(
            [
                f"{sparsity:.0%}",
                "yes" if repaired else "no",
                method,
                str(len(group)),
                f"{fmean([cell['dev'] for cell in group]):.2f}",
                f"{fmean(means):.2f}{spread}",
                f"{fmean(means) - dense:+.2f}",
                interval_text(
                    {name: fmean([one[name] for one in ahead]) for name in ("difference", "low", "high")}
                    if ahead
                    else None
                ),
            ]
        )
    return header, rows


def paragraph(results: Results) -> str:
    """For each sparsity and repair: the best method, and whether the paper's is it."""
    groups = _grouped(results)
    sentences = []
    for sparsity, repaired in sorted({key[:2] for key in groups}):
        means = {
            key[2]: fmean([c["mean"] for c in group])
            for key, group in groups.items()
            if key[:2] == (sparsity, repaired)
        }
        best = max(means, key=lambda method: means[method])
        rivals = {method: mean for method, mean in means.items() if method != OURS}
        label = f"At {sparsity:.0%} {'with' if repaired else 'without'} repair"
        if OURS not in means or not rivals:
            continue
        rival = max(rivals, key=lambda method: rivals[method])
        beaten = [
            method
            for method in rivals
            if all(cell["ours_ahead"]["low"] > 0 for cell in groups[(sparsity, repaired, method)])
        ]
        sentences.append(
            f"{label} {best} is best; {OURS} is {means[OURS] - rivals[rival]:+.2f} against {rival}, the best other, "
            f"and surely ahead (interval above 0) of {len(beaten)} of {len(rivals)}."
        )
    return " ".join(sentences)


def draw(results: Results, axes: Any) -> None:
    """A line for each method over the sparsities: solid with repair, dotted without."""
    groups = _grouped(results)
    methods = list(dict.fromkeys(key[2] for key in groups))
    for number, method in enumerate(methods):
        for repaired, style in ((False, ":"), (True, "-")):
            points = sorted(
                (key[0], fmean([c["mean"] for c in group]))
                for key, group in groups.items()
                if key[1:] == (repaired, method)
            )
            if points:
                axes.plot(
                    [100 * x for x, _ in points],
                    [y for _, y in points],
                    style,
                    color=f"C{number}",
                    marker="o",
                    linewidth=2.5 if method == OURS else 1.2,
                    label=f"{method}{', repaired' if repaired else ''}",
                )
    finish_axes(axes, "heads and neurons removed, %", results["dense"]["mean"], fontsize=8, ncols=2)


STUDY = Study("The paper's score against its rivals", cells, paragraph, table, draw)
