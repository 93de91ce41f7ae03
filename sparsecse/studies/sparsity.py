"""Quality against sparsity: every task, alignment, uniformity and speed from 1 to 99 %."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsecse.stages.siblings import within_tolerance
from sparsecse.studies.setup import Setup
from sparsecse.studies.study import Cell, Results, Study

SPARSITIES = (0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
TOLERANCE = 0.1


def _key(sparsity: float) -> str:
    return f"{sparsity:g}"


def cells(setup: Setup) -> list[Cell]:
    """One cell for each sparsity and, where a repair is asked for, one more with it."""
    repairs = setup.settings.training is not None

    def measure(sparsity: float, repaired: bool) -> dict[str, Any]:
        encoder = setup.cut(setup.scores(), sparsity)
        repair: dict[str, Any] = {}
        if repaired:
            result = setup.repaired(encoder)
            repair = {"steps": result.steps, "best_step": result.best_step}
        key = _key(sparsity) + ("/repaired" if repaired else "")
        measured = setup.measure(encoder, key)
        if sparsity:
            measured["change"] = setup.interval(key, _key(0.0))
        return {
            "sparsity": sparsity,
            "repaired": repaired,
            **measured,
            "speedup": setup.speedups({key: encoder})[key],
            **repair,
        }

    found = []
    for sparsity in (0.0, *(setup.settings.sparsities or SPARSITIES)):
        found.append(Cell(_key(sparsity), lambda sparsity=sparsity: measure(sparsity, False)))  # type: ignore[misc]
        if repairs and sparsity:
            key = f"{_key(sparsity)}/repaired"
            found.append(Cell(key, lambda sparsity=sparsity: measure(sparsity, True)))  # type: ignore[misc]
    return found


def _curve(results: Results, repaired: bool = False) -> list[Any]:
    chosen = [cell for cell in results.values() if cell["repaired"] == repaired or not cell["sparsity"]]
    return sorted(chosen, key=lambda cell: cell["sparsity"])


def table(results: Results) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """One row for each cell."""
    tasks = list(next(iter(results.values()))["tasks"])
    header = ["sparsity", "repair", "dev", *tasks, "mean", "change (95 %)", "alignment", "uniformity", "speed"]
    rows = []
    for repaired in (False, True):
        for cell in _curve(results, repaired):
            if repaired and not cell["sparsity"]:
                continue
            change = cell.get("change")
            rows.append(
                [
                    f"{cell['sparsity']:.0%}",
                    "yes" if repaired else "no",
                    f"{cell['dev']:.2f}",
                    *(f"{cell['tasks'][task]:.2f}" for task in tasks),
                    f"{cell['mean']:.2f}",
                    f"{change['difference']:+.2f} ({change['low']:+.2f} to {change['high']:+.2f})" if change else "",
                    f"{cell['alignment']:.3f}",
                    f"{cell['uniformity']:.3f}",
                    f"{cell['speedup']:.2f}x",
                ]
            )
    return header, rows


def paragraph(results: Results) -> str:
    """Where the curve peaks, what `auto` would take, where dense is lost, and each task's own optimum."""
    curve = _curve(results)
    dense, *pruned = curve
    points = [{"sparsity": cell["sparsity"], "mean": cell["dev"], "dev": {"dev": cell["dev"]}} for cell in curve]
    auto = within_tolerance(points, TOLERANCE)
    chosen = next(cell for cell in curve if cell["sparsity"] == auto)
    optima = {task: max(curve, key=lambda cell: cell["tasks"][task]) for task in dense["tasks"]}
    own = ", ".join(
        f"{task} {cell['sparsity']:.0%} ({cell['tasks'][task] - dense['tasks'][task]:+.2f})"
        for task, cell in optima.items()
    )
    best = max(curve, key=lambda cell: cell["dev"])
    text = [
        f"Without repair, the dev score is best at {best['sparsity']:.0%}; the largest "
        f"sparsity within {TOLERANCE} of that is {auto:.0%}, where the mean of the test tasks is "
        f"{chosen['mean'] - dense['mean']:+.2f} against dense.",
        f"Each task's own best: {own}.",
    ]
    for label, line in (("Without repair", pruned), ("With repair", _curve(results, True)[1:])):
        if line:
            kept = [cell["sparsity"] for cell in line if cell["mean"] >= dense["mean"]]
            last = f"up to {max(kept):.0%}" if kept else "nowhere"
            text.append(f"{label} the mean is dense's or better {last}.")
    return " ".join(text)


def draw(results: Results, axes: Any) -> None:
    """The mean with its interval, without and with repair."""
    dense = results[_key(0.0)]["mean"]
    for repaired, label in ((False, "no repair"), (True, "repaired")):
        line = [cell for cell in _curve(results, repaired) if cell["sparsity"]]
        if not line or (repaired and not line[0]["repaired"]):
            continue
        x = [100 * cell["sparsity"] for cell in line]
        axes.plot(x, [cell["mean"] for cell in line], marker="o", label=label)
        low, high = ([dense + cell["change"][end] for cell in line] for end in ("low", "high"))
        axes.fill_between(x, low, high, alpha=0.2)
    axes.axhline(dense, color="black", linewidth=1, linestyle="--", label="dense")
    axes.set_xlabel("heads and neurons removed, %")
    axes.set_ylabel("mean Spearman x100 of the test tasks")
    axes.legend()
    axes.grid(alpha=0.3)


STUDY = Study("sparsity", "Quality against sparsity", cells, paragraph, table, draw)
