"""Whether scores depend on the data they are taken on: other graded sets, and sentences without gold scores."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from sparsecse.cells.cells import Cell
from sparsecse.datasets import DropoutViews, PairSet, SetNotFoundError, load_pairs, views_of
from sparsecse.scoring import Scores
from sparsecse.studies.drawing import finish_axes
from sparsecse.studies.intervals import interval_text
from sparsecse.studies.setup import Setup
from sparsecse.studies.study import Results, Study

SPARSITIES = (0.1, 0.2, 0.5)
SEEDS = 2
_OTHERS = (("stsb", "dev"), ("stsb", "train"), ("sickr", "dev"), ("sickr", "train"))


def _sets(setup: Setup) -> dict[str, PairSet]:
    """What to score on: the study's pairs, the others in its data folder, and dropout views."""
    own = setup.score_pairs
    sets = {f"{own.name}-{own.split}": own}
    for name, split in _OTHERS if setup.data_dir else ():
        with contextlib.suppress(SetNotFoundError):
            pairs = load_pairs(name, split=split, data_dir=setup.data_dir)
            if pairs.fingerprint() != own.fingerprint():
                sets[f"{name}-{split}"] = pairs
    # The same sentences without their gold scores tells the positives' part from the sentences'.
    sets[f"{own.name}-{own.split}-dropout"] = views_of(own.sentences(), own.source)
    for seed in range(setup.settings.seeds or SEEDS) if setup.sentences else ():
        sets[f"sentences-{seed}"] = views_of(setup.sentences, "`train_data`", seed=seed)
    return sets


def cells(setup: Setup) -> list[Cell]:
    """The scores of each set, their agreement pair by pair, then each set's cuts, without repair."""
    sets = _sets(setup)

    def file(name: str) -> Path:
        return setup.cosines / f"scores-{name}.safetensors"

    def take(name: str) -> Scores:
        scores = setup.score_model(setup.dense, pairs=sets[name])
        setup.cosines.mkdir(parents=True, exist_ok=True)
        scores.save(file(name))
        return scores

    def load(name: str) -> Scores:
        if not file(name).exists():
            take(name)
        return Scores.load(file(name))

    def score(name: str) -> dict[str, Any]:
        pairs, scores = sets[name], take(name)
        views = isinstance(pairs, DropoutViews)
        count = len(pairs) if views else len(pairs.sentences())
        about = {"set": name, "positives": "dropout" if views else "gold", "sentences": count, **scores.values}
        return {"kind": "scores", "data": pairs.fingerprint(), **about}

    def agree(first: str, second: str) -> dict[str, Any]:
        a, b = load(first), load(second)
        found = {
            kind: float(spearmanr(*(torch.cat(getattr(scores, kind)).numpy() for scores in (a, b))).statistic)
            for kind in ("heads", "neurons")
        }
        return {"kind": "agreement", "first": first, "second": second, **found}

    def measure(name: str, sparsity: float, key: str) -> dict[str, Any]:
        measured = setup.measure(setup.cut(load(name), sparsity), key)
        return {
            "kind": "cut",
            "set": name,
            "sparsity": sparsity,
            **measured,
            "change": setup.interval(key, "dense"),
        }

    found = [Cell("dense", lambda: {"kind": "dense", **setup.measure(setup.dense, "dense")})]
    found += [Cell(f"scores/{name}", partial(score, name)) for name in sets]
    found += [Cell(f"agreement/{a}/{b}", partial(agree, a, b)) for a, b in itertools.combinations(sets, 2)]
    for sparsity in setup.settings.sparsities or SPARSITIES:
        for name in sets:
            key = f"{name}/{sparsity:g}"
            found.append(Cell(key, partial(measure, name, sparsity, key)))
    return found


def _of(results: Results, kind: str) -> list[Any]:
    return [cell for cell in results.values() if cell["kind"] == kind]


def _agreement(results: Results, name: str, kind: str) -> list[float]:
    """The rank correlations of one set's scores with those of all others."""
    return [cell[kind] for cell in _of(results, "agreement") if name in (cell["first"], cell["second"])]


def table(results: Results) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """A row for each set: the agreement with the first set, the lowest with any, and the change by each sparsity."""
    sets, cuts = _of(results, "scores"), _of(results, "cut")
    sparsities = sorted({cell["sparsity"] for cell in cuts})
    by = {(cell["set"], cell["sparsity"]): cell["change"] for cell in cuts}
    pairs = {frozenset((cell["first"], cell["second"])): cell for cell in _of(results, "agreement")}
    rows = []
    for cell in sets:
        name, row = cell["set"], [cell["set"], cell["positives"], str(cell["sentences"])]
        with_first = pairs.get(frozenset((name, sets[0]["set"])))
        for kind in ("heads", "neurons"):
            lowest = min(_agreement(results, name, kind), default=None)
            row += ["" if with_first is None else f"{with_first[kind]:.3f}", "" if lowest is None else f"{lowest:.3f}"]
        row += [interval_text(by.get((name, sparsity))) for sparsity in sparsities]
        rows.append(row)
    header = ["scored on", "positives", "sentences"]
    header += [f"{kind}{what}" for kind in ("heads", "neurons") for what in ("", ", lowest")]
    return [*header, *(f"{sparsity:.0%}" for sparsity in sparsities)], rows


def paragraph(results: Results) -> str:
    """How far the scores agree between graded sets and without gold scores, and what that does to the cuts."""
    positives = {cell["set"]: cell["positives"] for cell in _of(results, "scores")}
    text = [
        f"The model was scored on {len(positives)} sets; the table has the rank correlations of each set's scores with "
        f"those of {next(iter(positives))}, and the lowest with any set."
    ]
    for label, wanted in (
        ("Between sets with gold scores", {"gold"}),
        ("Between a set with gold scores and one without", {"gold", "dropout"}),
        ("Between sets without gold scores", {"dropout"}),
    ):
        own = [c for c in _of(results, "agreement") if {positives[c["first"]], positives[c["second"]]} == wanted]
        if own:
            ranges = [
                f"{min(c[kind] for c in own):.3f} to {max(c[kind] for c in own):.3f} for {kind}"
                for kind in ("heads", "neurons")
            ]
            text.append(f"{label} the ranks correlate by {' and '.join(ranges)}.")
    for sparsity in sorted({cell["sparsity"] for cell in _of(results, "cut")}):
        change = {c["set"]: c["change"]["difference"] for c in _of(results, "cut") if c["sparsity"] == sparsity}
        best, worst = (choose(change, key=lambda name: change[name]) for choose in (max, min))
        ungraded = [value for name, value in change.items() if positives[name] == "dropout"]
        text.append(
            f"At {sparsity:.0%} the mean changes by {change[best]:+.2f} (scored on {best}) to {change[worst]:+.2f} "
            f"({worst}); without gold scores by {min(ungraded):+.2f} to {max(ungraded):+.2f}."
        )
    return " ".join(text)


def draw(results: Results, axes: Any) -> None:
    """A line for each set over the sparsities: solid with gold scores, dotted without."""
    for cell in _of(results, "scores"):
        line = sorted((c["sparsity"], c["mean"]) for c in _of(results, "cut") if c["set"] == cell["set"])
        style = "-" if cell["positives"] == "gold" else ":"
        axes.plot([100 * x for x, _ in line], [y for _, y in line], style, marker="o", label=cell["set"])
    finish_axes(axes, "heads and neurons removed, %", results["dense"]["mean"], fontsize=8)


STUDY = Study("Scores on other data, and without gold scores", cells, paragraph, table, draw)
