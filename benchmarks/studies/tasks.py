"""Each task's own best sparsity, part by part (STS12's MSRpar, ...), and which traits of a task go with it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from sparsecse.cells.cells import Cell
from sparsecse.datasets import PairSet
from sparsecse.studies.setup import Setup
from sparsecse.studies.study import Results, Study

SPARSITIES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
AT = 0.2  # where the change is related to the traits, or at the sparsity nearest to it
TRAITS = {
    "pairs": "number of pairs",
    "words": "words of a sentence",
    "overlap": "share of words in common",
    "gold_mean": "mean gold score",
    "gold_spread": "standard deviation of the gold scores",
    "dense": "Spearman of the dense model",
}


def traits(pairs: PairSet, rows: Sequence[int]) -> dict[str, float]:
    """What kind of task these rows are: words are what spaces part, in lower case, `overlap` is Jaccard's."""
    words = [[text.lower().split() for text in (pairs.first[row], pairs.second[row])] for row in rows]
    shared = [len(set(a) & set(b)) / max(1, len(set(a) | set(b))) for a, b in words]
    golds = [pairs.scores[row] for row in rows] if pairs.scores else [0.0]
    return {
        "pairs": len(rows),
        "words": float(np.mean([len(side) for both in words for side in both])),
        "overlap": float(np.mean(shared)),
        "gold_mean": float(np.mean(golds)),
        "gold_spread": float(np.std(golds)),
    }


def cells(setup: Setup) -> list[Cell]:
    """The traits of every part of every task, then every part's Spearman at each sparsity, without repair."""
    # For each part (STS12's MSRpar), or whole task where it has none, the task and the rows in it.
    parts: dict[str, tuple[str, list[int]]] = {}
    for task, pairs in setup.tasks.items():
        for row, part in enumerate(pairs.subsets or [""] * len(pairs)):
            parts.setdefault(f"{task} {part}".strip(), (task, []))[1].append(row)

    def described() -> dict[str, Any]:
        return {
            "traits": {part: {"task": task, **traits(setup.tasks[task], rows)} for part, (task, rows) in parts.items()}
        }

    def part_scores(key: str) -> dict[str, float]:
        cosines = setup.kept_cosines(key)
        golds = {task: np.asarray(pairs.scores) for task, pairs in setup.tasks.items()}
        return {
            part: 100 * float(spearmanr(cosines[task][rows], golds[task][rows]).statistic)
            for part, (task, rows) in parts.items()
        }

    def measure(sparsity: float) -> dict[str, Any]:
        key = f"{sparsity:g}"
        setup.measure(setup.cut(setup.scores(), sparsity), key)
        return {"sparsity": sparsity, "parts": part_scores(key)}

    found = [Cell("traits", described)]
    for sparsity in (0.0, *(setup.settings.sparsities or SPARSITIES)):
        found.append(Cell(f"{sparsity:g}", partial(measure, sparsity)))
    return found


def _rows(results: Results) -> list[dict[str, Any]]:
    """For each part its traits, its optimum, what it gains there, and its change at the sparsity of `AT`."""
    curve = sorted((cell for cell in results.values() if "parts" in cell), key=lambda cell: cell["sparsity"])
    cut = min(curve[1:], key=lambda cell: abs(cell["sparsity"] - AT))
    found = []
    for part, own in results["traits"]["traits"].items():
        dense = curve[0]["parts"][part]
        best = max(curve, key=lambda cell: cell["parts"][part])
        found.append(
            {
                "part": part,
                **own,
                "dense": dense,
                "optimum": best["sparsity"],
                "gain": best["parts"][part] - dense,
                "at": cut["sparsity"],
                "change": cut["parts"][part] - dense,
            }
        )
    return found


def relations(results: Results) -> dict[str, dict[str, tuple[float, float]]]:
    """{trait: {"optimum" or "change": (rank correlation over the parts, its p value)}}."""
    rows = _rows(results)
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for trait in TRAITS:
        for what in ("optimum", "change"):
            values, outcomes = ([row[name] for row in rows] for name in (trait, what))
            if len(set(values)) > 1 and len(set(outcomes)) > 1 and len(rows) > 2:
                result = spearmanr(values, outcomes)
                found.setdefault(trait, {})[what] = (float(result.statistic), float(result.pvalue))
    return found


def table(results: Results) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """One row for each part, those that gain most first."""
    rows = sorted(_rows(results), key=lambda row: -row["change"])
    header = ["part", "pairs", "words", "overlap", "gold", "dense", "best at", "gain there", f"at {rows[0]['at']:.0%}"]
    return header, [
        [
            row["part"],
            str(row["pairs"]),
            f"{row['words']:.1f}",
            f"{row['overlap']:.2f}",
            f"{row['gold_mean']:.2f} ± {row['gold_spread']:.2f}",
            f"{row['dense']:.2f}",
            f"{row['optimum']:.0%}",
            f"{row['gain']:+.2f}",
            f"{row['change']:+.2f}",
        ]
        for row in rows
    ]


def paragraph(results: Results) -> str:
    """Where the parts have their optima, and which traits go with them."""
    rows = _rows(results)
    optima = sorted(row["optimum"] for row in rows)
    gaining = sum(row["change"] > 0 for row in rows)
    text = [
        f"Of {len(rows)} parts {sum(optimum > 0 for optimum in optima)} are best pruned, without repair, half of them "
        f"at {optima[len(optima) // 2]:.0%} or beyond; at {rows[0]['at']:.0%}, {gaining} are above the dense model."
    ]
    found = relations(results)
    for what, words in (("optimum", "the best sparsity"), ("change", f"the change at {rows[0]['at']:.0%}")):
        own = {trait: both[what] for trait, both in found.items() if what in both}
        if not own:
            continue
        strongest = max(own, key=lambda trait: abs(own[trait][0]))
        (value, p), level = own[strongest], 0.05 / len(own)
        text.append(
            f"Of {len(own)} traits, {TRAITS[strongest]} goes with {words} most: rank correlation {value:+.2f}, p = "
            f"{p:.3f}, {'below' if p < level else 'not below'} the {level:.3f} that so many looks ask for."
        )
    return " ".join(text)


def draw(results: Results, axes: Any) -> None:
    """Each part's change at the sparsity of `AT` over the share of words that its pairs have in common."""
    rows = _rows(results)
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        axes.plot([row["overlap"] for row in own], [row["change"] for row in own], "o", label=task)
    for row in rows:
        axes.annotate(
            row["part"], (row["overlap"], row["change"]), fontsize=7, xytext=(3, 3), textcoords="offset points"
        )
    axes.axhline(0, color="black", linewidth=1, linestyle="--")
    axes.set_xlabel("share of words that a pair has in common")
    axes.set_ylabel(f"change of Spearman x100 at {rows[0]['at']:.0%}, without repair")
    axes.legend()
    axes.grid(alpha=0.3)


STUDY = Study("Each task's own best sparsity", cells, paragraph, table, draw)
