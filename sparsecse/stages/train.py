"""Stages `train` and `finetune`: the training loop on a dense model, and on a pruned one taught by the dense."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparsecse.datasets import PairSet
from sparsecse.encoders import Encoder, fingerprint, save_encoder
from sparsecse.errors import InputError
from sparsecse.files import atomic_directory, write_json
from sparsecse.progress import Progress, silent
from sparsecse.pruning.ensemble import Ensemble, choose_teachers
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.stages.models import dense_hash, load_dense, load_model, model_input, save_model
from sparsecse.stages.score import SCORES_FILE, load_scores, score_data
from sparsecse.training import Example, StepReport, TrainingResult, TrainingSettings, train
from sparsecse.training.examples import training_data
from sparsecse.training.judges import Judge, judge_of
from sparsecse.workdir import Record, Workdir

StepProgress = Callable[[StepReport], None]


def _examples_hash(examples: Sequence[Example], scores: Sequence[float] | None) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(example).encode())
    if scores is not None:
        digest.update(json.dumps(scores).encode())
    return digest.hexdigest()


def _refuse_training_pairs(dev: PairSet, examples: Sequence[Example], scores: Sequence[float] | None) -> None:
    """A dev score on the pairs that are trained on would pick the weights that know them by heart."""
    if scores is not None and examples == list(zip(dev.first, dev.second, strict=True)):
        raise InputError(
            f"The dev score would be taken on the pairs that `objective` graded trains on ({dev.source}); give other "
            f"pairs with `data` or with `dev`."
        )


def _teachers(settings: TrainingSettings, teachers: Sequence[ModelOptions]) -> list[Encoder]:
    return [teacher.load() for teacher in teachers] if "distill" in settings.objective else []


def _self_ensemble(
    workdir: Workdir, dev: PairSet | None, progress: Progress
) -> tuple[Sequence[Encoder], dict[str, Any]]:
    """The teachers that the scores offer; for the record, their sparsities and the dev scores of the candidates."""
    dense = load_dense(workdir)
    if dev is None or workdir.record("score") is None:
        return [dense], {}
    ensemble = Ensemble(dense, load_scores(workdir), [dev])
    sparsities, tried = choose_teachers(ensemble, progress("Choosing the teachers"))
    return ensemble.cuts(sparsities), {"teachers": sparsities, "teacher_dev": tried}


def _info(result: TrainingResult, examples: int, judge: Judge | None) -> dict[str, Any]:
    return {
        "steps": result.steps,
        "planned_steps": result.planned,
        "best_step": result.best_step,
        "examples": examples,
        "dev": None if judge is None else judge.name,
        "dev_before": result.history[0]["dev"],
        "dev_best": result.best_score,
    }


def train_dense(
    workdir: Workdir,
    model: ModelOptions,
    data: DataOptions,
    settings: TrainingSettings,
    dev: DataOptions | None,
    *,
    teachers: Sequence[ModelOptions] = (),
    progress: StepProgress | None = None,
    teacher_progress: Progress = silent,
    note: Callable[[str], None] | None = None,
) -> tuple[Record, bool]:
    """Train a dense encoder, keeping the weights of `settings.keep_steps` to rewind to.

    Args:
        teachers: the models to distil from, whose unit vectors are averaged.
    """
    encoder = model.load()
    examples, scores = training_data(data, set(settings.objective))
    pairs = dev.pairs() if dev is not None else None
    inputs = {"model": fingerprint(encoder), "data": _examples_hash(examples, scores)}
    if pairs is not None:
        _refuse_training_pairs(pairs, examples, scores)
        inputs["dev"] = pairs.fingerprint()
    taught_by = _teachers(settings, teachers)
    if taught_by:
        inputs["teacher"] = "+".join(map(fingerprint, taught_by))
    _, judge = judge_of(settings, examples, pairs, None)
    recorded = {"model": model.settings(), "data": data.settings(), "training": asdict(settings)}

    def work(folder: Path) -> Mapping[str, Any]:
        partial = workdir.partial("train", inputs, recorded)

        def keep(step: int, current: Encoder) -> None:
            with atomic_directory(partial / "steps" / f"step-{step:06d}") as target:
                save_encoder(current, target, stock=True)

        result = train(
            encoder,
            examples,
            settings,
            scores=scores,
            teacher=taught_by,
            dev_score=judge,
            checkpoint=partial / "checkpoint.pt",
            keep=keep,
            progress=progress,
            teacher_progress=teacher_progress("Embedding with the teacher"),
            note=note,
        )
        save_model(encoder, folder, stock=True)
        if (partial / "steps").exists():
            # Copied, not moved: a kill before this stage has its name would lose the steps for the next attempt.
            shutil.copytree(partial / "steps", folder / "steps")
        write_json(folder / "history.json", result.history)
        return _info(result, len(examples), judge)

    record, reused = workdir.run_stage("train", inputs, recorded, work)
    workdir.drop_partials("train")
    return record, reused


def finetune(
    workdir: Workdir,
    data: DataOptions,
    settings: TrainingSettings,
    dev: DataOptions | None = None,
    *,
    teachers: Sequence[ModelOptions] = (),
    progress: StepProgress | None = None,
    teacher_progress: Progress = silent,
    note: Callable[[str], None] | None = None,
) -> tuple[Record, bool]:
    """Repair the newest pruned or rewound model; the best weights by dev score are kept, step 0 included.

    Args:
        dev: graded pairs for the dev score; by default those that the scores were taken on. Where these have no gold
            scores it is the agreement with the dense model on held-out sentences; see `TrainingSettings.select`.
        teachers: the models to distil from, whose unit vectors are averaged; the name "dense" is the dense model. By
            default the dense model and as many lighter cuts of it as are best on dev (`ensemble.choose_teachers`), or
            the dense model alone where nothing was scored or there is no dev score.
    """
    source = "rewind" if workdir.record("rewind") is not None and workdir.stale("rewind") is None else "prune"
    examples, scores = training_data(data, set(settings.objective))
    pairs = score_data(workdir).graded() if dev is None else dev.pairs()
    inputs = {
        **model_input(workdir, source),
        "data": _examples_hash(examples, scores),
    }
    if pairs is not None:
        _refuse_training_pairs(pairs, examples, scores)
        inputs["dev"] = pairs.fingerprint()
    if scores is None and (pairs is None or settings.select != "dev"):
        inputs["agreement"] = dense_hash(workdir)
    recorded: dict[str, Any] = {"data": data.settings(), "training": asdict(settings)}
    distils = "distill" in settings.objective
    named = [load_dense(workdir) if one.name == "dense" else one.load() for one in teachers] if distils else []
    if named:
        inputs["teacher"] = "+".join(map(fingerprint, named))
    elif distils:
        # What the choice among its cuts follows from.
        inputs["teacher"] = dense_hash(workdir)
        if pairs is not None and workdir.record("score") is not None:
            inputs[f"score/{SCORES_FILE}"] = workdir.output_hash("score", SCORES_FILE)

    def work(folder: Path) -> Mapping[str, Any]:
        taught_by: Sequence[Encoder] = named
        teacher_info: dict[str, Any] = {}
        if distils and not named:
            taught_by, teacher_info = _self_ensemble(workdir, pairs, teacher_progress)
        encoder = load_model(workdir, source)
        dense = None if scores is not None else lambda: load_dense(workdir)
        left, judge = judge_of(settings, examples, pairs, dense)
        partial = workdir.partial("finetune", inputs, recorded)
        result = train(
            encoder,
            left,
            settings,
            scores=scores,
            teacher=taught_by,
            dev_score=judge,
            checkpoint=partial / "checkpoint.pt",
            progress=progress,
            teacher_progress=teacher_progress("Embedding with the teacher"),
            note=note,
        )
        save_model(encoder, folder)
        write_json(folder / "history.json", result.history)
        return _info(result, len(left), judge) | teacher_info

    record, reused = workdir.run_stage("finetune", inputs, recorded, work)
    workdir.drop_partials("finetune")
    return record, reused


def training_summary(record: Record) -> str:
    """One line on what a training stage did."""
    info = record.info
    early = f" of {info['planned_steps']}" if info["steps"] < info["planned_steps"] else ""
    line = f"{info['steps']}{early} steps on {info['examples']} examples"
    if info["dev_best"] is None:
        return f"{line}; no dev set, the last weights are kept"
    return (
        f"{line}; dev {info['dev']}: {info['dev_before']:.2f} before, {info['dev_best']:.2f} at step "
        f"{info['best_step']}, whose weights are kept"
    )
