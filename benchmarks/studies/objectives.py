"""Other contrastive families: the model trained on with each objective, then pruned by its own scores."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from sparsecse.cells.cells import Cell
from sparsecse.datasets import SetNotFoundError, load_pairs
from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.studies.drawing import finish_axes
from sparsecse.studies.intervals import interval_text
from sparsecse.studies.setup import Setup
from sparsecse.studies.study import Results, Study
from sparsecse.training import TrainingSettings, train

OBJECTIVES = ("unsup", "moco", "byol")
SUPERVISED = "sup"  # on the pairs of STS-B train that are graded as positive, where that is found
SPARSITIES = (0.05, 0.1, 0.2, 0.3)


def _gold_positives(setup: Setup) -> list[tuple[str, ...]]:
    """(sentence, positive) for each pair of STS-B train with a gold score of 4 or more; none where it is not found."""
    with contextlib.suppress(SetNotFoundError):
        pairs = load_pairs("stsb", split="train", data_dir=setup.data_dir) if setup.data_dir else None
        if pairs is not None:
            sentences = pairs.sentences()
            return [(sentences[first], sentences[second]) for first, second in pairs.positives()]
    return []


def cells(setup: Setup) -> list[Cell]:
    """Each objective's model, dense and cut at each sparsity by its own scores, without repair."""
    known: dict[str, tuple[Encoder, Any]] = {}
    single: list[tuple[str, ...]] = [(text,) for text in setup.sentences]
    examples = dict.fromkeys(OBJECTIVES, single)
    if positives := _gold_positives(setup):
        examples[SUPERVISED] = positives
    training = setup.settings.training
    if training is None:
        raise InputError("The study objectives trains; give `max_steps` above 0 and `train_data`.")

    def trained(objective: str) -> tuple[Encoder, Any]:
        if objective not in known:
            encoder = setup.dense.copy()
            settings = TrainingSettings(**{**asdict(training), "objective": {objective: 1.0}, "patience": 0})
            train(encoder, examples[objective], settings)
            known.clear()
            known[objective] = encoder, setup.score_model(encoder)
        return known[objective]

    def measure(objective: str, sparsity: float, key: str) -> dict[str, Any]:
        encoder, scores = trained(objective)
        pruned = setup.cut(scores, sparsity, encoder)
        measured = setup.measure(pruned, key)
        change = {"change": setup.interval(key, f"{objective}/0")} if sparsity else {}
        return {"objective": objective, "sparsity": sparsity, **measured, **change}

    found = []
    for objective in examples:
        for sparsity in (0.0, *(setup.settings.sparsities or SPARSITIES)):
            key = f"{objective}/{sparsity:g}"
            found.append(Cell(key, partial(measure, objective, sparsity, key)))
    return found


def table(results: Results) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """One row for each objective and sparsity."""
    rows = [
        [
            cell["objective"],
            f"{cell['sparsity']:.0%}",
            f"{cell['dev']:.2f}",
            f"{cell['mean']:.2f}",
            interval_text(cell.get("change")),
            f"{cell['alignment']:.3f}",
            f"{cell['uniformity']:.3f}",
        ]
        for cell in results.values()
    ]
    return ["objective", "sparsity", "dev", "mean", "change (95 %)", "alignment", "uniformity"], rows


def paragraph(results: Results) -> str:
    """For each objective where its curve is highest."""
    text = []
    for objective in dict.fromkeys(cell["objective"] for cell in results.values()):
        own = [cell for cell in results.values() if cell["objective"] == objective]
        best = max(own, key=lambda cell: cell["mean"])
        dense = next(cell for cell in own if not cell["sparsity"])
        text.append(
            f"Trained with {objective}, the mean is highest at {best['sparsity']:.0%} "
            f"({best['mean'] - dense['mean']:+.2f} against the same model whole, {dense['mean']:.2f})."
        )
    return " ".join(text)


def draw(results: Results, axes: Any) -> None:
    """A line for each objective."""
    for objective in dict.fromkeys(cell["objective"] for cell in results.values()):
        line = sorted((c["sparsity"], c["mean"]) for c in results.values() if c["objective"] == objective)
        axes.plot([100 * x for x, _ in line], [y for _, y in line], marker="o", label=objective)
    finish_axes(axes, "heads and neurons removed, %")


STUDY = Study("Sparsity after other contrastive objectives", cells, paragraph, table, draw)
