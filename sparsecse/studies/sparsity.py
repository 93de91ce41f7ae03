"""Quality against sparsity: every task, alignment, uniformity and speed from 1 to 99 %."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sparsecse.cells.cells import Cell
from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.guard import SIMILARITY, TOLERANCE, Guard
from sparsecse.pruning.ensemble import choose_reconstruction, largest_allowed
from sparsecse.pruning.masks import Mask
from sparsecse.reporting.facts import Curve, Line
from sparsecse.studies.drawing import finish_axes
from sparsecse.studies.intervals import interval_text
from sparsecse.studies.setup import Setup
from sparsecse.studies.study import Results, Study, read_study

SPARSITIES = (0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
RECONSTRUCTED_FROM = 0.25  # lighter cuts have nothing to make up for
NONE, RECONSTRUCTION, TRAINING = "none", "reconstruction", "training"
LABELS = {NONE: "no repair", RECONSTRUCTION: "reconstruction", TRAINING: "reconstruction and training"}


def _key(sparsity: float, repair: str = NONE, seed: int = 0) -> str:
    return f"{sparsity:g}" + ("" if repair == NONE else f"/{repair}") + (f"/seed-{seed}" if seed else "")


def cells(setup: Setup) -> list[Cell]:
    """Each sparsity without repair, from 25 % on with reconstruction and, where a training is given, with both.

    The training has `seeds` seeds (1); the last one's cell has the change of their mean beside its own.
    """
    seeds = setup.settings.seeds or 1

    def repaired(encoder: Encoder, mask: Mask, repair: str, seed: int) -> tuple[Encoder, dict[str, Any]]:
        start = time.monotonic()
        about: dict[str, Any] = {}
        if sum(map(len, mask.neurons)) * RECONSTRUCTED_FROM <= sum(int((~x).sum()) for x in mask.neurons):
            encoder, about["reconstruction"] = choose_reconstruction(
                setup.ensemble, mask, encoder, trained_after=repair == TRAINING
            )
        if repair == TRAINING:
            result = setup.repaired(encoder, seed=seed)
            about |= {"steps": result.steps, "best_step": result.best_step}
        return encoder, about | {"repair_seconds": round(time.monotonic() - start, 1)}

    def measure(sparsity: float, repair: str, seed: int = 0) -> dict[str, Any]:
        key = _key(sparsity, repair, seed)
        encoder, about = setup.cut(setup.scores(), sparsity), dict[str, Any]()
        if repair != NONE:
            encoder, about = repaired(encoder, setup.mask(setup.scores(), sparsity), repair, seed)
        measured = setup.measure(encoder, key)
        if sparsity:
            measured["change"] = setup.interval(key, _key(0.0))
        if seed and seed == seeds - 1:
            of_seeds = [_key(sparsity, repair, one) for one in range(seeds)]
            measured["change_of_seeds"] = setup.interval(of_seeds, _key(0.0))
        speedup = setup.speedup(encoder)
        return {"sparsity": sparsity, "repair": repair, "seed": seed, **measured, "speedup": speedup, **about}

    found = []
    for sparsity in (0.0, *(setup.settings.sparsities or SPARSITIES)):
        repairs = [NONE]
        if sparsity >= RECONSTRUCTED_FROM:
            repairs.append(RECONSTRUCTION)
        if sparsity and setup.settings.training is not None:
            repairs.append(TRAINING)
        for repair in repairs:
            for seed in range(seeds if repair == TRAINING else 1):
                arguments = (sparsity, repair, seed)
                found.append(Cell(_key(*arguments), partial(measure, *arguments)))
    return found


def _mean_of(seeds: Sequence[Any]) -> dict[str, Any]:
    """One cell for the seeds of a training: the means of what was measured, and the change of the mean."""
    found = dict(seeds[0])
    if len(seeds) == 1:
        return found
    for name in ("mean", "dev", "alignment", "uniformity", "speedup", "repair_seconds"):
        found[name] = sum(cell[name] for cell in seeds) / len(seeds)
    found["tasks"] = {task: sum(cell["tasks"][task] for cell in seeds) / len(seeds) for task in found["tasks"]}
    found["change"] = next((cell["change_of_seeds"] for cell in seeds if "change_of_seeds" in cell), found["change"])
    found["means"] = [cell["mean"] for cell in seeds]
    return found


def _curve(results: Results, repair: str = NONE) -> list[Any]:
    """The dense model and the cells of one repair, by sparsity; the seeds of one sparsity as one."""
    groups: dict[float, list[Any]] = {}
    for cell in results.values():
        if cell["repair"] == repair or not cell["sparsity"]:
            groups.setdefault(cell["sparsity"], []).append(cell)
    return [_mean_of(groups[sparsity]) for sparsity in sorted(groups)]


def _repairs(results: Results) -> list[str]:
    return [repair for repair in (NONE, RECONSTRUCTION, TRAINING) if len(_curve(results, repair)) > 1]


def table(results: Results) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """One row for each cell."""
    tasks = list(next(iter(results.values()))["tasks"])
    header = ["sparsity", "repair", "dev", *tasks, "mean", "change (95 %)", "alignment", "uniformity", "speed"]
    rows = []
    for repair in _repairs(results):
        for cell in _curve(results, repair):
            if repair != NONE and not cell["sparsity"]:
                continue
            rows.append(
                [
                    f"{cell['sparsity']:.0%}",
                    repair + (f", {len(cell['means'])} seeds" if "means" in cell else ""),
                    f"{cell['dev']:.2f}",
                    *(f"{cell['tasks'][task]:.2f}" for task in tasks),
                    f"{cell['mean']:.2f}",
                    interval_text(cell.get("change")),
                    f"{cell['alignment']:.3f}",
                    f"{cell['uniformity']:.3f}",
                    f"{cell['speedup']:.2f}x",
                ]
            )
    return header, rows


def paragraph(results: Results) -> str:
    """Where the curve peaks, what `auto` would take, where dense is lost, and each task's own optimum."""
    curve = _curve(results)
    dense = curve[0]
    points = [{"sparsity": cell["sparsity"], "dev": {SIMILARITY: cell["dev"]}} for cell in curve]
    auto = largest_allowed(points, Guard(points[0]["dev"]))
    chosen = next(cell for cell in curve if cell["sparsity"] == auto)
    optima = {task: max(curve, key=lambda cell: cell["tasks"][task]) for task in dense["tasks"]}
    own = ", ".join(
        f"{task} {cell['sparsity']:.0%} ({cell['tasks'][task] - dense['tasks'][task]:+.2f})"
        for task, cell in optima.items()
    )
    best = max(curve, key=lambda cell: cell["dev"])
    text = [
        f"Without repair, the dev score is best at {best['sparsity']:.0%}; the largest sparsity at which it is no more "
        f"than {TOLERANCE} below dense is {auto:.0%}, where the mean of the test tasks is "
        f"{chosen['mean'] - dense['mean']:+.2f} against dense.",
        f"Each task's own best: {own}.",
    ]
    words = {NONE: "Without repair", RECONSTRUCTION: "With reconstruction", TRAINING: "With training"}
    for repair in _repairs(results):
        kept = [cell["sparsity"] for cell in _curve(results, repair)[1:] if cell["mean"] >= dense["mean"]]
        text.append(f"{words[repair]} the mean is dense's or better {f'up to {max(kept):.0%}' if kept else 'nowhere'}.")
    for cell in _curve(results, TRAINING)[1:]:
        if "means" in cell:
            text.append(
                f"At {cell['sparsity']:.0%} {len(cell['means'])} seeds of the training are between "
                f"{min(cell['means']) - dense['mean']:+.2f} and {max(cell['means']) - dense['mean']:+.2f}."
            )
    for cell in _curve(results, RECONSTRUCTION)[1:]:
        lost = dense["mean"] - results[_key(cell["sparsity"])]["mean"]
        if lost > 0 and cell["sparsity"] in (0.4, 0.5):
            back = (cell["mean"] - results[_key(cell["sparsity"])]["mean"]) / lost
            text.append(
                f"At {cell['sparsity']:.0%} the reconstruction takes back {back:.0%} of what the cut lost, in "
                f"{cell['repair_seconds']:.0f} s with the choices on dev."
            )
    return " ".join(text)


def draw(results: Results, axes: Any) -> None:
    """The mean with its interval, for each repair."""
    dense = results[_key(0.0)]["mean"]
    for repair in _repairs(results):
        line = _curve(results, repair)[1:]
        x = [100 * cell["sparsity"] for cell in line]
        axes.plot(x, [cell["mean"] for cell in line], marker="o", label=LABELS[repair])
        low, high = ([dense + cell["change"][end] for cell in line] for end in ("low", "high"))
        axes.fill_between(x, low, high, alpha=0.2)
    finish_axes(axes, "heads and neurons removed, %", dense)


def report_curve(path: Path, model: str) -> Curve:
    """What a study measured, for the report of a run.

    Args:
        path: of its JSON file, or of the folder that has it.
        model: the fingerprint of the run's dense model.

    Raises:
        InputError: the file of no study `sparsity`, or of one of another model.
    """
    path = path / "sparsity.json" if path.is_dir() else path
    content = read_study(path)
    if content["study"] != "sparsity":
        raise InputError(f"`study` {path} is the study {content['study']}; give that of `sparsecse study sparsity`.")
    if content.get("model_hash") != model:
        raise InputError(f"`study` {path} measured another model than this run prunes; give a study of the same model.")
    results = content["results"]
    dense = results.get(_key(0.0))
    if dense is None:
        raise InputError(f"`study` {path} has not measured the dense model yet; run `sparsecse study sparsity` again.")
    lines, rows = [], []
    for repair in _repairs(results):
        own = _curve(results, repair)[1:]
        points = [(100 * cell["sparsity"], *_change(cell, dense["mean"])) for cell in own]
        lines.append(Line(LABELS[repair], tuple(points)))
        rows += [
            [f"{cell['sparsity']:.0%}", LABELS[repair], f"{cell['mean']:.2f}", interval_text(cell.get("change"))]
            for cell in own
        ]
    return Curve(
        "On test tasks, by the study sparsity",
        f"Mean Spearman x100 of {', '.join(dense['tasks'])}; bands are 95 % intervals over pairs. Dense: "
        f"{dense['mean']:.2f}. Measured {content.get('date', '')[:10]}.",
        tuple(lines),
        ["removed", "repair", "mean", "change (95 %)"],
        rows,
        words=2,
    )


def _change(cell: Mapping[str, Any], dense: float) -> tuple[float, float, float]:
    """The change of a cell's mean, and the ends of its interval."""
    return cell["mean"] - dense, cell["change"]["low"], cell["change"]["high"]


STUDY = Study("Quality against sparsity", cells, paragraph, table, draw)
