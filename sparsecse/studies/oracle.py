"""What scores promise against what removal does: rank correlation of every method with exact leave-one-out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scipy.stats import spearmanr

from sparsecse.scoring import METHODS, Structure, neuron_groups, single_heads
from sparsecse.studies.setup import Setup
from sparsecse.studies.study import Cell, Results, Study

GROUP_SIZE = 64
_PARTS = 12  # cells that the exact removals are split over, so that a killed study loses little


def _methods(setup: Setup) -> Sequence[str]:
    return setup.settings.methods or [name for name in METHODS if name != "leave-one-out"]


def cells(setup: Setup) -> list[Cell]:
    """The true removals of all heads and of all groups of like neurons, in parts, then one cell for each method."""
    heads = single_heads(setup.dense)

    def structures() -> list[Structure]:
        return sorted([*heads, *neuron_groups(setup.scores(), GROUP_SIZE)], key=lambda each: each.layer)

    def removals(part: int) -> dict[str, Any]:
        chosen = structures()
        size = -(-len(chosen) // _PARTS)
        found = setup.leave_one_out(chosen[part * size : (part + 1) * size])
        return {"removals": found}

    def method(name: str) -> dict[str, Any]:
        scores = setup.scores(name)
        promised = []
        for structure in structures():
            own = getattr(scores, structure.kind)[structure.layer][list(structure.indices)]
            promised.append({"kind": structure.kind, "score": float(own.double().sum())})
        return {"promised": promised}

    found = [Cell(f"removals-{part}", lambda part=part: removals(part)) for part in range(_PARTS)]  # type: ignore[misc]
    return found + [Cell(name, lambda name=name: method(name)) for name in _methods(setup)]  # type: ignore[misc]


def _removals(results: Results) -> list[Any]:
    return [row for part in range(_PARTS) for row in results.get(f"removals-{part}", {}).get("removals", [])]


def correlations(results: Results) -> dict[str, dict[str, float]]:
    """{method: {"heads objective", "heads spearman", "neurons objective", "neurons spearman": rank correlation}}.

    Positive is right in all four: a high score goes with a rise of L, and with a loss of Spearman, on removal.
    """
    removals = _removals(results)
    found: dict[str, dict[str, float]] = {}
    for name, cell in results.items():
        if "promised" not in cell or len(cell["promised"]) != len(removals):
            continue
        found[name] = {}
        for kind in ("heads", "neurons"):
            rows = [(p["score"], r) for p, r in zip(cell["promised"], removals, strict=True) if r["kind"] == kind]
            score = [value for value, _ in rows]
            for label, sign in (("objective", 1.0), ("spearman", -1.0)):
                true = [sign * r[f"delta_{label}"] for _, r in rows]
                found[name][f"{kind} {label}"] = float(spearmanr(score, true).statistic)
    return found


_COLUMNS = ("heads objective", "heads spearman", "neurons objective", "neurons spearman")


def table(results: Results) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """One row for each method."""
    found = sorted(correlations(results).items(), key=lambda item: -sum(item[1].values()))
    rows = [[name, *(f"{row[column]:+.2f}" for column in _COLUMNS)] for name, row in found]
    return ["method", "heads: change of L", "heads: loss of Spearman", "neurons: change of L", "neurons: loss"], rows


def paragraph(results: Results) -> str:
    """Which method ranks best, and how far a low score means harmful."""
    found, removals = correlations(results), _removals(results)
    best = {column: max(found, key=lambda name: found[name][column]) for column in _COLUMNS}
    text = [
        f"{sum(r['kind'] == 'heads' for r in removals)} heads and {sum(r['kind'] == 'neurons' for r in removals)} "
        f"groups of neurons were removed one at a time."
    ]
    for kind in ("heads", "neurons"):
        own = [r for r in removals if r["kind"] == kind]
        better = [r for r in own if r["delta_spearman"] > 0]
        lower = [r for r in own if r["delta_objective"] < 0]
        by_loss, by_change = (best[f"{kind} {label}"] for label in ("spearman", "objective"))
        text.append(
            f"Of the {kind}, removing {len(better)} of {len(own)} raises Spearman on the scored pairs and removing "
            f"{len(lower)} lowers L. The rank correlation with the loss of Spearman is highest for {by_loss} "
            f"({found[by_loss][f'{kind} spearman']:+.2f}), with the change of L for {by_change} "
            f"({found[by_change][f'{kind} objective']:+.2f})."
        )
        if "taylor" in found:
            both = [-r["delta_spearman"] for r in own], [r["delta_objective"] for r in own]
            agree = float(spearmanr(*both).statistic)
            text.append(
                f"The paper's score reaches {found['taylor'][f'{kind} spearman']:+.2f} and "
                f"{found['taylor'][f'{kind} objective']:+.2f}; L's change and the loss of Spearman themselves agree to "
                f"{agree:+.2f}."
            )
    return " ".join(text)


def draw(results: Results, axes: Any) -> None:
    """The paper's score of each head and group against what its removal does to Spearman."""
    removals = _removals(results)
    promised = results["taylor"]["promised"] if "taylor" in results else next(iter(results.values()))["promised"]
    for kind, marker in (("heads", "o"), ("neurons", ".")):
        points = [
            (p["score"], r["delta_spearman"]) for p, r in zip(promised, removals, strict=True) if r["kind"] == kind
        ]
        rank = torch.tensor([x for x, _ in points]).argsort().argsort() / max(1, len(points) - 1)
        axes.plot(rank, [y for _, y in points], marker, linestyle="", label=kind, alpha=0.6)
    axes.axhline(0, color="black", linewidth=1)
    axes.set_xlabel("rank of the paper's score within its kind (0 lowest, 1 highest)")
    axes.set_ylabel("change of Spearman x100 on removal (above 0: it was harmful)")
    axes.legend()
    axes.grid(alpha=0.3)


STUDY = Study("oracle", "Scores against the true effect of removal", cells, paragraph, table, draw)
