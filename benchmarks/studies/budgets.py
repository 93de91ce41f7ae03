"""How heads are to be weighed against neurons: the budgets in which they compete, and equal shares, at equal cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from sparsecse.cells.cells import Cell
from sparsecse.pruning.costs import multiply_add_cost, removed_fraction, select_by_cost
from sparsecse.pruning.masks import Budget, Mask, lowest, select
from sparsecse.pruning.surgery import prune
from sparsecse.scoring import ScoringSettings
from sparsecse.scoring.accumulators import BlockFisher
from sparsecse.scoring.gradients import accumulate_one
from sparsecse.studies.drawing import finish_axes
from sparsecse.studies.intervals import interval_text
from sparsecse.studies.setup import Setup
from sparsecse.studies.study import Results, Study

SPARSITIES = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8)
REFERENCE = "equal shares"
OURS = "squares"
TOGETHER = "together"
RULES = {
    REFERENCE: "the same fraction of heads and of neurons",
    OURS: "least sum of squared scores",
    "shares of squares": "least sum of squared scores, each kind's divided by its total",
    "sums": "least sum of scores",
    "neurons only": "no head leaves",
}


def cells(setup: Setup) -> list[Cell]:
    """Each rule at each fraction of the layers' multiply-adds, without repair and, where there is one, with it."""
    sizes = setup.dense.model.config.layer_sizes()
    model = multiply_add_cost(setup.dense.model.config)
    neurons_alone = removed_fraction(model, sizes, [(heads, 0) for heads, _ in sizes])

    def by(combine: str) -> Callable[[float], Mask]:
        return lambda sparsity: select_by_cost(replace(setup.scores(), combine=combine), model, sparsity)

    masks: Mapping[str, Callable[[float], Mask]] = {
        REFERENCE: lambda sparsity: setup.mask(setup.scores(), sparsity),
        OURS: by("squares"),
        "shares of squares": by("order"),
        "sums": by("sums"),
        "neurons only": lambda sparsity: select(
            setup.scores(), Budget.of(sizes, neuron_sparsity=sparsity / neurons_alone)
        ),
    }

    def measure(rule: str, sparsity: float, repaired: bool) -> dict[str, Any]:
        mask = masks[rule](sparsity)
        encoder = setup.repaired_cut(mask) if repaired else prune(setup.dense, mask)
        key = _key(rule, sparsity, repaired)
        result = {
            "rule": rule,
            "sparsity": sparsity,
            "repaired": repaired,
            "heads_removed": _removed(mask.heads),
            "neurons_removed": _removed(mask.neurons),
            "multiply_adds_removed": removed_fraction(model, sizes, mask.kept()),
            **setup.measure(encoder, key),
            "change": setup.interval(key, "dense"),
        }
        if rule != REFERENCE:
            result["ahead"] = setup.interval(key, _key(REFERENCE, sparsity, repaired))
        return result

    found = [
        Cell("dense", lambda: {"rule": "dense", **setup.measure(setup.dense, "dense")}),
        Cell(TOGETHER, lambda: {"rule": TOGETHER, "sets": together(setup)}),
    ]
    for repaired in (False, True) if setup.settings.training is not None else (False,):
        for sparsity in setup.settings.sparsities or SPARSITIES:
            for rule in RULES:
                if rule != "neurons only" or sparsity <= neurons_alone:
                    arguments = (rule, sparsity, repaired)
                    found.append(Cell(_key(*arguments), partial(measure, *arguments)))
    return found


def together(setup: Setup) -> list[dict[str, Any]]:
    """What the lowest-scored of a kind do to L together, against what the rules make of their own scores.

    The true size is the root of E_x (sum of dL/dg_x over the set)^2, with what different layers do taken as unrelated.

    Returns:
        for each kind and fraction: by_squares, the root of the sum of E_x (dL/dg_x)^2 as a multiple of the true size;
        by_sums, the sum of their roots.
    """
    blocks = BlockFisher(setup.dense)
    accumulate_one(setup.dense, setup.score_pairs, ScoringSettings(), blocks, setup.progress("Scoring sets"))
    found = blocks.result()
    layers = len(found) // 2
    rows = []
    for kind, own in (("heads", found[:layers]), ("neurons", found[layers:])):
        own = [block.double().cpu() for block in own]
        squares = [block.diagonal() for block in own]
        count = sum(map(len, squares))
        for fraction in (0.1, 0.2, 0.35, 0.5):
            marks = [mark.double() for mark in lowest(squares, round(fraction * count))]
            true = sum(float(mark @ block @ mark) for mark, block in zip(marks, own, strict=True)) ** 0.5
            of_squares = sum(float(mark @ square) for mark, square in zip(marks, squares, strict=True)) ** 0.5
            of_sums = sum(float(mark @ square.sqrt()) for mark, square in zip(marks, squares, strict=True))
            if true:
                rows.append(
                    {"kind": kind, "removed": fraction, "by_squares": of_squares / true, "by_sums": of_sums / true}
                )
    return rows


def _removed(kind: Sequence[torch.Tensor]) -> float:
    return 1 - float(torch.cat(list(kind)).double().mean())


def _key(rule: str, sparsity: float, repaired: bool) -> str:
    return f"{rule}/{sparsity:g}" + ("/repaired" if repaired else "")


def _pruned(results: Results) -> list[Mapping[str, Any]]:
    return [cell for cell in results.values() if cell["rule"] in RULES]


def table(results: Results) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """One row for each cut."""
    dense = results["dense"]
    header = ["multiply-adds", "repair", "rule", "heads", "neurons", "dev", "mean", "change", "against equal shares"]
    rows = [["0%", "no", "dense", "0%", "0%", f"{dense['dev']:.2f}", f"{dense['mean']:.2f}", "", ""]]
    for cell in sorted(_pruned(results), key=lambda cell: (cell["repaired"], cell["sparsity"])):
        removed = (f"{cell[name]:.0%}" for name in ("heads_removed", "neurons_removed"))
        rows.append(
            [
                f"{cell['multiply_adds_removed']:.1%}",
                "yes" if cell["repaired"] else "no",
                cell["rule"],
                *removed,
                f"{cell['dev']:.2f}",
                f"{cell['mean']:.2f}",
                f"{cell['change']['difference']:+.2f}",
                interval_text(cell.get("ahead")),
            ]
        )
    return header, rows


def paragraph(results: Results) -> str:
    """Where each rule ends against equal shares of heads and neurons."""
    sentences = []
    for repaired in (False, True):
        cells_ = [cell for cell in _pruned(results) if cell["repaired"] == repaired and "ahead" in cell]
        for rule in dict.fromkeys(cell["rule"] for cell in cells_):
            parts = []
            for cell in cells_:
                if cell["rule"] == rule:
                    ahead = cell["ahead"]
                    sure = " (surely)" if ahead["low"] > 0 or ahead["high"] < 0 else ""
                    parts.append(f"{ahead['difference']:+.2f}{sure} at {cell['sparsity']:.0%}")
            sentences.append(
                f"{'With' if repaired else 'Without'} repair, {rule} ({RULES[rule]}) against equal shares: "
                f"{', '.join(parts)} of the multiply-adds."
            )
    sets = results[TOGETHER]["sets"]
    for kind in dict.fromkeys(row["kind"] for row in sets):
        parts = [
            f"{row['by_squares']:.2f} and {row['by_sums']:.1f} times at {row['removed']:.0%}"
            for row in sets
            if row["kind"] == kind
        ]
        sentences.append(
            f"What the lowest-scored {kind} do to the objective together is put by squares and by sums at "
            f"{', '.join(parts)} of its size."
        )
    return " ".join(sentences)


def draw(results: Results, axes: Any) -> None:
    """A line for each rule over the multiply-adds removed: solid with repair, dotted without."""
    for number, rule in enumerate(RULES):
        for repaired, style in ((False, ":"), (True, "-")):
            line = sorted(
                (100 * cell["multiply_adds_removed"], cell["mean"])
                for cell in _pruned(results)
                if cell["rule"] == rule and cell["repaired"] == repaired
            )
            if line:
                label = f"{rule}{', repaired' if repaired else ''}"
                axes.plot(*zip(*line, strict=True), style, color=f"C{number}", marker="o", label=label)
    finish_axes(axes, "multiply-adds of the layers removed, %", results["dense"]["mean"], fontsize=8, ncols=2)


STUDY = Study("Heads against neurons at equal multiply-adds", cells, paragraph, table, draw)
