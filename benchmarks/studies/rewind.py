"""The paper's whole loop: train, score, prune, rewind to a kept step or not at all, train again; over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from sparsecse.cells.cells import Cell
from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.pruning.surgery import prune
from sparsecse.studies.setup import Setup
from sparsecse.studies.study import Results, Study
from sparsecse.training import TrainingSettings, train

SPARSITIES = (0.1, 0.3)
SEEDS = 3
TO = ("no rewind", "start", "a quarter", "half")


def _settings(setup: Setup, seed: int) -> TrainingSettings:
    """The study's training; its objective is contrastive, since rewinding is about repeating the training."""
    training = setup.settings.training
    if training is None:
        raise InputError("The study rewind trains; give `max_steps` above 0 and `train_data`.")
    values = asdict(training) | {"seed": seed}
    if "distill" in training.objective:
        values["objective"] = {"unsup": 1.0}
    steps = training.steps(len(setup.sentences))
    if steps < 4:
        raise InputError(
            f"The study rewind keeps a quarter and a half of its steps; give `max_steps` 4 or more, not {steps}."
        )
    return TrainingSettings(**{**values, "patience": 0, "keep_steps": (steps // 4, steps // 2)})


def cells(setup: Setup) -> list[Cell]:
    """Per seed the dense training, then each sparsity and each point to rewind to.

    A seed's dense model is trained once in a process; a study that goes on in a later one trains it again, the same.
    """
    known: dict[int, tuple[Encoder, dict[str, Encoder], Any]] = {}
    examples = [(sentence,) for sentence in setup.sentences]

    def trained(seed: int) -> tuple[Encoder, dict[str, Encoder], Any]:
        if seed not in known:
            encoder, kept = setup.dense.copy(), {"start": setup.dense}
            settings = _settings(setup, seed)
            names = dict(zip(settings.keep_steps, TO[2:], strict=True))

            def keep(step: int, current: Encoder) -> None:
                kept[names[step]] = current.copy()

            # Without a dev score: the end of training is what is pruned, whether or not it is the best step.
            train(encoder, examples, settings, keep=keep)
            known.clear()
            known[seed] = encoder, kept, setup.score_model(encoder)
        return known[seed]

    def dense(seed: int) -> dict[str, Any]:
        return {"seed": seed, "to": "dense", "sparsity": 0.0, **setup.measure(trained(seed)[0], f"dense/{seed}")}

    def loop(seed: int, sparsity: float, to: str) -> dict[str, Any]:
        encoder, kept, scores = trained(seed)
        mask = setup.mask(scores, sparsity)
        pruned = prune(encoder if to == "no rewind" else kept[to], mask)
        before = setup.dev(pruned)
        train(pruned, examples, _settings(setup, seed))
        key = f"{seed}/{sparsity:g}/{to}"
        return {"seed": seed, "to": to, "sparsity": sparsity, "dev_before": before, **setup.measure(pruned, key)}

    found = []
    for seed in range(setup.settings.seeds or SEEDS):
        found.append(Cell(f"dense/{seed}", partial(dense, seed)))
        for sparsity in setup.settings.sparsities or SPARSITIES:
            for to in TO:
                arguments = (seed, sparsity, to)
                found.append(Cell(f"{seed}/{sparsity:g}/{to}", partial(loop, *arguments)))
    return found


def _groups(results: Results) -> dict[tuple[float, str], list[float]]:
    groups: dict[tuple[float, str], list[float]] = {}
    for cell in results.values():
        groups.setdefault((cell["sparsity"], cell["to"]), []).append(cell["mean"])
    return groups


def _against_dense(results: Results, sparsity: float, to: str) -> list[float]:
    """The change of the mean against the same seed's dense model."""
    dense = {cell["seed"]: cell["mean"] for cell in results.values() if cell["to"] == "dense"}
    return [
        cell["mean"] - dense[cell["seed"]]
        for cell in results.values()
        if (cell["sparsity"], cell["to"]) == (sparsity, to)
    ]


def table(results: Results) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """One row for each sparsity and point to rewind to: the mean over seeds and its range."""
    rows = []
    for (sparsity, to), means in sorted(_groups(results).items()):
        change = _against_dense(results, sparsity, to)
        rows.append(
            [
                f"{sparsity:.0%}",
                to,
                str(len(means)),
                f"{sum(means) / len(means):.2f}",
                f"{min(means):.2f} to {max(means):.2f}",
                f"{sum(change) / len(change):+.2f}",
            ]
        )
    return ["sparsity", "rewound to", "seeds", "mean", "range", "against the seed's dense"], rows


def paragraph(results: Results) -> str:
    """For each sparsity: the best point, and how it compares with not rewinding, seed by seed."""
    text = []
    for sparsity in sorted({cell["sparsity"] for cell in results.values() if cell["sparsity"]}):
        by = {to: _against_dense(results, sparsity, to) for to in TO}
        by = {to: values for to, values in by.items() if values}
        best = max(by, key=lambda to: sum(by[to]) / len(by[to]))
        stay = by.get("no rewind", [])
        rewound = {to: values for to, values in by.items() if to != "no rewind"}
        ahead = ", ".join(
            f"{to} {sum(values) / len(values) - sum(stay) / len(stay):+.2f} "
            f"(better in {sum(a > b for a, b in zip(values, stay, strict=False))} of {len(values)} seeds)"
            for to, values in rewound.items()
            if stay
        )
        text.append(f"At {sparsity:.0%}, {best} is best; against no rewind: {ahead}.")
    return " ".join(text)


def draw(results: Results, axes: Any) -> None:
    """Each seed's change against its dense model, by the point rewound to."""
    for number, sparsity in enumerate(sorted({cell["sparsity"] for cell in results.values() if cell["sparsity"]})):
        for place, to in enumerate(TO):
            values = _against_dense(results, sparsity, to)
            label = f"{sparsity:.0%} removed" if not place else None
            axes.plot([place + 0.1 * number] * len(values), values, "o", color=f"C{number}", label=label)
    axes.set_xticks(range(len(TO)), TO)
    axes.axhline(0, color="black", linewidth=1, linestyle="--")
    axes.set_xlabel("weights that the kept structures are given back")
    axes.set_ylabel("mean Spearman x100 against the same seed's dense model")
    axes.legend()
    axes.grid(alpha=0.3)


STUDY = Study("Train, prune, rewind, train again", cells, paragraph, table, draw)
