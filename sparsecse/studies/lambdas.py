"""How alignment and uniformity are weighed in the score: lambda from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsecse.studies.setup import Setup
from sparsecse.studies.study import Cell, Results, Study

LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0)
SPARSITIES = (0.05, 0.1, 0.2, 0.3, 0.5)


def cells(setup: Setup) -> list[Cell]:
    """Each lambda at each sparsity, without repair."""

    def measure(weight: float, sparsity: float, key: str) -> dict[str, Any]:
        measured = setup.measure(setup.cut(setup.scores(weight=weight), sparsity), key)
        change = {"change": setup.interval(key, "dense")} if sparsity else {}
        return {"lambda": weight, "sparsity": sparsity, **measured, **change}

    found = [Cell("dense", lambda: measure(0.5, 0.0, "dense"))]
    for sparsity in setup.settings.sparsities or SPARSITIES:
        for weight in LAMBDAS:
            key = f"{weight:g}/{sparsity:g}"
            found.append(Cell(key, lambda a=(weight, sparsity, key): measure(*a)))  # type: ignore[misc]
    return found


def _pruned(results: Results) -> list[Any]:
    return [cell for key, cell in results.items() if key != "dense"]


def table(results: Results) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Lambda down, sparsity across: the change of the mean against dense."""
    sparsities = sorted({cell["sparsity"] for cell in _pruned(results)})
    weights = sorted({cell["lambda"] for cell in _pruned(results)})
    by = {(cell["lambda"], cell["sparsity"]): cell for cell in _pruned(results)}
    rows = [
        [
            f"{weight:g}",
            *(
                "{difference:+.2f} ({low:+.2f} to {high:+.2f})".format(**by[weight, sparsity]["change"])
                if (weight, sparsity) in by
                else ""
                for sparsity in sparsities
            ),
        ]
        for weight in weights
    ]
    return ["lambda", *(f"{sparsity:.0%}" for sparsity in sparsities)], rows


def paragraph(results: Results) -> str:
    """The best lambda on the test tasks and on dev, averaged over the sparsities."""
    cells = _pruned(results)
    weights = sorted({cell["lambda"] for cell in cells})

    def mean(weight: float, name: str) -> float:
        values = [cell[name] for cell in cells if cell["lambda"] == weight]
        return sum(values) / len(values)

    best, chosen = (max(weights, key=lambda weight: mean(weight, name)) for name in ("mean", "dev"))
    ends = ", ".join(f"{weight:g}: {mean(weight, 'mean') - results['dense']['mean']:+.2f}" for weight in weights)
    alone = [mean(weight, "mean") - mean(0.5, "mean") for weight in (1.0, 0.0)]
    return (
        f"Averaged over the sparsities, the change of the mean against dense is, by lambda, {ends}. The best lambda on "
        f"the test tasks is {best:g}; dev would choose {chosen:g}. Alignment alone (1) and uniformity alone (0) differ "
        f"from the even mix by {alone[0]:+.2f} and {alone[1]:+.2f}."
    )


def draw(results: Results, axes: Any) -> None:
    """A line for each sparsity over lambda."""
    for sparsity in sorted({cell["sparsity"] for cell in _pruned(results)}):
        line = sorted((c["lambda"], c["mean"]) for c in _pruned(results) if c["sparsity"] == sparsity)
        axes.plot([x for x, _ in line], [y for _, y in line], marker="o", label=f"{sparsity:.0%} removed")
    axes.axhline(results["dense"]["mean"], color="black", linewidth=1, linestyle="--", label="dense")
    axes.set_xlabel("lambda: weight of alignment against uniformity")
    axes.set_ylabel("mean Spearman x100 of the test tasks")
    axes.legend()
    axes.grid(alpha=0.3)


STUDY = Study("lambda", "Alignment against uniformity in the score", cells, paragraph, table, draw)
