"""What scores promise against what removal does: exact leave-one-out, and cuts of growing size.

Every method's rank correlation with what truly happens, and how far the change that the first order promises holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from scipy.stats import spearmanr

from sparsecse.cells.cells import Cell
from sparsecse.pruning.surgery import prune
from sparsecse.scoring import METHODS, Structure, neuron_groups, single_heads
from sparsecse.studies.setup import Setup
from sparsecse.studies.study import Results, Study

GROUP_SIZE = 64
SIGNED = "taylor-signed"  # its scores are promises in the units of L
JOINT = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
_PARTS = 12  # cells that the exact removals are split over, so that a killed study loses little


def _methods(setup: Setup) -> Sequence[str]:
    return setup.settings.methods or [name for name in METHODS if name != "leave-one-out"]


def cells(setup: Setup) -> list[Cell]:
    """The true removals of all heads and of all groups of like neurons, in parts, then one cell for each method.

    After them the cuts by the paper's score at each sparsity, with the change of L and what the first order promised.
    """
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

    def whole() -> dict[str, Any]:
        return {"objective": setup.objective(setup.dense), "spearman": setup.dev(setup.dense)}

    def joint(sparsity: float) -> dict[str, Any]:
        mask, signed = setup.mask(setup.scores(), sparsity), setup.scores(SIGNED)
        pruned = prune(setup.dense, mask)
        marks = (*mask.heads, *mask.neurons)
        promised = sum(float(x[~own].double().sum()) for x, own in zip(signed.tensors(), marks, strict=True))
        found = {"sparsity": sparsity, "objective": setup.objective(pruned), "spearman": setup.dev(pruned)}
        return {**found, "promised_change": promised}

    found = [Cell(f"removals-{part}", partial(removals, part)) for part in range(_PARTS)]
    found += [Cell(name, partial(method, name)) for name in _methods(setup)]
    found.append(Cell("whole", whole))
    for sparsity in setup.settings.sparsities or JOINT:
        found.append(Cell(f"joint-{sparsity:g}", partial(joint, sparsity)))
    return found


def joint_changes(results: Results) -> list[dict[str, float]]:
    """For each cut, the lightest first: sparsity, promised and true change of L, and the change of Spearman."""
    dense = results["whole"]
    return [
        {
            "sparsity": cell["sparsity"],
            "promised": cell["promised_change"],
            "true": cell["objective"] - dense["objective"],
            "spearman": cell["spearman"] - dense["spearman"],
        }
        for cell in sorted((c for c in results.values() if "promised_change" in c), key=lambda c: c["sparsity"])
    ]


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
    changes = joint_changes(results)
    text.append(
        "Cut together by the paper's score, L truly changes by (and was promised to change by): "
        + ", ".join(
            f"{one['true']:+.4f} ({one['promised']:+.4f}) at {one['sparsity']:.0%}, Spearman {one['spearman']:+.2f}"
            for one in changes
        )
        + "."
    )
    held = [one["sparsity"] for one in changes if abs(one["true"] - one["promised"]) <= abs(one["true"]) / 2]
    text.append(
        "The promise is within half of the truth "
        + (f"at {', '.join(f'{sparsity:.0%}' for sparsity in held)}." if held else "nowhere.")
    )
    return " ".join(text)


def _taylor_first(results: Results) -> list[Any]:
    return sorted(results.values(), key=lambda cell: cell is not results.get("taylor"))


def draw(results: Results, axes: Any) -> None:
    """The paper's score of each head and group against what its removal does to Spearman."""
    removals = _removals(results)
    promised = next(cell["promised"] for cell in _taylor_first(results) if "promised" in cell)
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


STUDY = Study("Scores against the true effect of removal", cells, paragraph, table, draw)
