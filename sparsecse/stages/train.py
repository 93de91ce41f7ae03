"""Stages `train` and `finetune`: the training loop on a dense model, and on a pruned one taught by the dense."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sparsecse.datasets import PairSet
from sparsecse.encoders import Encoder, fingerprint, save_encoder
from sparsecse.errors import InputError
from sparsecse.evaluation.dev import HELD_OUT, Dev, DevSet, dev_fingerprint
from sparsecse.files import atomic_directory, write_json
from sparsecse.guard import AGREEMENT
from sparsecse.progress import Progress, silent
from sparsecse.pruning.ensemble import Ensemble, choose_teachers
from sparsecse.sources import DataOptions, DevOptions, ModelOptions
from sparsecse.stages.dev import NoDevError, dev_sets
from sparsecse.stages.models import dense_hash, load_dense, load_model, load_named, model_input, save_model
from sparsecse.stages.score import SCORES_FILE, load_scores
from sparsecse.training import Example, StepReport, TrainingResult, TrainingSettings, train
from sparsecse.training.examples import training_data
from sparsecse.training.held_out import hold_out
from sparsecse.workdir import Record, Workdir

StepProgress = Callable[[StepReport], None]

DENSE, CUTS = "dense", "cuts"
"""Names among the teachers: the dense model; its mean with lighter cuts of it."""


@dataclass(frozen=True)
class _Work:
    """What a stage trains: with which examples and teachers, and what picks the weights.

    stock: the model is written as a checkpoint of its family. info: more for the record.
    """

    encoder: Encoder
    examples: Sequence[Example]
    teachers: Sequence[Encoder]
    dev: Dev | None
    stock: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)


def train_dense(
    workdir: Workdir,
    model: ModelOptions,
    data: DataOptions,
    settings: TrainingSettings,
    dev: DevOptions | None = None,
    *,
    teachers: Sequence[ModelOptions] = (),
    progress: StepProgress | None = None,
    teacher_progress: Progress = silent,
    note: Callable[[str], None] | None = None,
) -> tuple[Record, bool]:
    """Train a dense encoder, keeping the weights of `settings.keep_steps` to rewind to.

    Args:
        dev: labelled dev sets that pick the weights; the model as it begins is the one that figures are compared with.
        teachers: the models to distil from, whose unit vectors are averaged.
    """
    encoder = load_named(model)
    examples, scores = training_data(data, set(settings.objective))
    named, held_out = (None, False) if dev is None else dev.without_held_out()
    sets = [] if named is None else named.load()
    if held_out or any(one.kind == AGREEMENT for one in sets):
        raise InputError("`dev` has plain sentences, and here is no dense model to agree with; give labelled dev sets.")
    inputs = {"model": fingerprint(encoder), "data": _examples_hash(examples, scores), **_dev_input(sets)}
    _refuse_training_pairs(sets, examples, scores)
    _refuse_needless(teachers, settings)
    taught_by = [load_named(one) for one in teachers]
    if taught_by:
        inputs["teacher"] = "+".join(map(fingerprint, taught_by))

    def prepare() -> _Work:
        judge = Dev(sets, encoder, settings.tolerance) if sets else None
        if judge is not None:
            _ = judge.guard  # now, as the model changes
        return _Work(encoder, examples, taught_by, judge, stock=True)

    recorded = {"model": model.settings(), "data": data.settings(), "training": asdict(settings)}
    return _stage(workdir, "train", inputs, recorded, settings, scores, prepare, progress, teacher_progress, note)


def finetune(
    workdir: Workdir,
    data: DataOptions,
    settings: TrainingSettings,
    dev: DevOptions | None = None,
    *,
    teachers: Sequence[ModelOptions] = (),
    progress: StepProgress | None = None,
    teacher_progress: Progress = silent,
    note: Callable[[str], None] | None = None,
) -> tuple[Record, bool]:
    """Repair the newest pruned or rewound model; the best weights on dev are kept, step 0 included (`guard.Guard`).

    Args:
        dev: what picks the weights; by default what `prune` chooses by (`dev.dev_sets`), where there is any, and the
            agreement with the dense model on held-out training sentences, which has the name "agreement".
        teachers: the models to distil from, whose unit vectors are averaged; by default "dense", the dense model, in
            whose space the vectors then stay. "cuts" alone is the dense model averaged with as many lighter cuts of it
            as are best on dev (`ensemble.choose_teachers`).
    """
    source = "rewind" if workdir.record("rewind") is not None and workdir.stale("rewind") is None else "prune"
    examples, scores = training_data(data, set(settings.objective))
    sets, held_out = _finetune_dev(workdir, dev)
    if scores is not None and held_out:
        if dev is not None:
            raise InputError(
                f"`dev` {HELD_OUT} holds sentences out, and `objective` graded trains on pairs; give a text file."
            )
        held_out = False
    inputs = {
        **model_input(workdir, source),
        "data": _examples_hash(examples, scores),
        **_dev_input(sets),
    }
    _refuse_training_pairs(sets, examples, scores)
    if sets or held_out:
        inputs["dense"] = dense_hash(workdir)
    _refuse_needless(teachers, settings)
    wanted = (teachers or [ModelOptions(DENSE)]) if "distill" in settings.objective else []
    averaged = [one.name for one in wanted] == [CUTS]
    named = [] if averaged else [None if one.name == DENSE else load_named(one) for one in wanted]
    if averaged:
        # What the choice among its cuts follows from.
        inputs["teacher"] = dense_hash(workdir)
        if all(one.kind == AGREEMENT for one in sets) or workdir.record("score") is None:
            raise InputError(f"`teacher` {CUTS} is chosen by scores and labelled dev sets; leave it out.")
        workdir.check("score", SCORES_FILE)
        inputs[f"score/{SCORES_FILE}"] = workdir.output_hash("score", SCORES_FILE)
    elif named:
        inputs["teacher"] = "+".join(dense_hash(workdir) if one is None else fingerprint(one) for one in named)

    def prepare() -> _Work:
        dense = load_dense(workdir)
        judge = Dev(sets, dense, settings.tolerance)
        taught_by: Sequence[Encoder] = [dense if one is None else one for one in named]
        info: dict[str, Any] = {}
        if averaged:
            ensemble = Ensemble(dense, load_scores(workdir), judge)
            sparsities, tried = choose_teachers(ensemble, teacher_progress("Choosing the teachers"))
            taught_by, info = ensemble.cuts(sparsities), {"teachers": sparsities, "teacher_dev": tried}
        left, held = hold_out(examples, settings.seed) if held_out else (examples, None)
        if held is not None:
            judge = judge.also(held)
        return _Work(load_model(workdir, source), left, taught_by, judge if judge.sets else None, info=info)

    recorded = {"data": data.settings(), "training": asdict(settings), "held_out": held_out}
    return _stage(workdir, "finetune", inputs, recorded, settings, scores, prepare, progress, teacher_progress, note)


def _stage(
    workdir: Workdir,
    stage: str,
    inputs: Mapping[str, str],
    recorded: Mapping[str, Any],
    settings: TrainingSettings,
    scores: Sequence[float] | None,
    prepare: Callable[[], _Work],
    progress: StepProgress | None,
    teacher_progress: Progress,
    note: Callable[[str], None] | None,
) -> tuple[Record, bool]:
    """Train, resuming what was interrupted, and write the model, its history and the steps to keep."""

    def work(folder: Path) -> Mapping[str, Any]:
        job = prepare()
        partial = workdir.partial(stage, inputs, recorded)

        def keep(step: int, current: Encoder) -> None:
            with atomic_directory(partial / "steps" / f"step-{step:06d}") as target:
                save_encoder(current, target, stock=job.stock)

        result = train(
            job.encoder,
            job.examples,
            settings,
            scores=scores,
            teacher=job.teachers,
            dev=job.dev,
            checkpoint=partial / "checkpoint.pt",
            keep=keep,
            progress=progress,
            teacher_progress=teacher_progress("Embedding with the teacher"),
            note=note,
        )
        save_model(job.encoder, folder, stock=job.stock)
        if (partial / "steps").exists():
            # Copied, not moved: a kill before this stage has its name would lose the steps for the next attempt.
            # What a kill left of one (a name with a dot) stays behind.
            shutil.copytree(partial / "steps", folder / "steps", ignore=shutil.ignore_patterns(".*"))
        write_json(folder / "history.json", result.history)
        return {**_info(result, len(job.examples), job.dev), **job.info}

    record, reused = workdir.run_stage(stage, inputs, recorded, work)
    workdir.drop_partials(stage)
    return record, reused


def _info(result: TrainingResult, examples: int, dev: Dev | None) -> dict[str, Any]:
    info = {
        "steps": result.steps,
        "planned_steps": result.planned,
        "best_step": result.best_step,
        "examples": examples,
        "dev": None,
    }
    if dev is None or result.best is None:
        return info
    return info | {
        "dev": dev.name,
        "dev_dense": dev.guard.dense,
        "dev_before": result.history[0]["dev"],
        "dev_best": result.best,
        "tolerance": dev.tolerance,
        "within_tolerance": dev.guard.allows(result.best),
    }


def training_summary(record: Record) -> str:
    """One line on what a training stage did: every kind of dev set before and at the step that is kept."""
    info = record.info
    early = f" of {info['planned_steps']}" if info["steps"] < info["planned_steps"] else ""
    line = f"{info['steps']}{early} steps on {info['examples']} examples"
    if info["dev"] is None:
        return f"{line}; no dev set, the last weights are kept"
    before, best, dense = (info[name] for name in ("dev_before", "dev_best", "dev_dense"))
    kinds = [
        f"{kind} {before[kind]:.2f} before, {figure:.2f} after (dense {dense[kind]:.2f})"
        for kind, figure in best.items()
    ]
    kept = f"the weights of step {info['best_step']} are kept"
    if not info["best_step"]:
        kept = "no step was better on dev than the model before, which stays as it was"
    line += f"; {kept}; dev {info['dev']}: {'; '.join(kinds)}"
    if info["within_tolerance"]:
        return line
    return (
        f"{line}; this comes nearest to within {info['tolerance']:g} points of dense, and no step does: take more "
        f"steps or text, or remove less"
    )


def _finetune_dev(workdir: Workdir, dev: DevOptions | None) -> tuple[list[DevSet], bool]:
    """The dev sets with a name, and whether training sentences are held out for another."""
    named, held_out = (None, True) if dev is None else dev.without_held_out()
    if dev is not None and named is None:
        return [], held_out
    try:
        return dev_sets(workdir, named), held_out
    except NoDevError:
        return [], True


def _refuse_needless(teachers: Sequence[ModelOptions], settings: TrainingSettings) -> None:
    if teachers and "distill" not in settings.objective:
        raise InputError(f"`teacher` is for `objective` distill; {', '.join(settings.objective)} has none: drop it.")


def _examples_hash(examples: Sequence[Example], scores: Sequence[float] | None) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(example).encode())
    if scores is not None:
        digest.update(json.dumps(scores).encode())
    return digest.hexdigest()


def _dev_input(sets: Sequence[DevSet]) -> dict[str, str]:
    return {"dev": dev_fingerprint(sets)} if sets else {}


def _refuse_training_pairs(sets: Sequence[DevSet], examples: Sequence[Example], scores: Sequence[float] | None) -> None:
    """Dev figures on the pairs that are trained on would pick the weights that know them by heart."""
    for one in sets:
        pairs = one.data
        if scores is None or not isinstance(pairs, PairSet):
            continue
        if examples == list(zip(pairs.first, pairs.second, strict=True)):
            raise InputError(
                f"The dev score would be taken on the pairs that `objective` graded trains on ({pairs.source}); give "
                f"other pairs with `data` or with `dev`."
            )
