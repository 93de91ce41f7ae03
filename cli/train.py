"""`sparsecse train`: a dense SimCSE encoder, with early checkpoints to rewind to."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsecse.cli import options
from sparsecse.cli.groups import takes
from sparsecse.cli.output import note, progress, show, step_progress
from sparsecse.cli.session import DEFAULT_WORKDIR, named_dev, named_model, session
from sparsecse.errors import InputError
from sparsecse.settings import split_numbers
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.training.settings import SIMCSE, TrainingSettings

if TYPE_CHECKING:
    from sparsecse.workdir import Record, Workdir

TrainData = Annotated[
    str,
    typer.Option(
        "--data",
        "--train-data",
        help="Sentences (text, .gz, a table, a pair set, a Hugging Face dataset, demo); for --objective sup pairs or "
        "triplets, for graded pairs with scores.",
        rich_help_panel="data",
    ),
]
KeepSteps = Annotated[
    str,
    typer.Option("--keep-steps", help="Steps whose weights are kept to rewind to: 50,100.", rich_help_panel="training"),
]


def aids(label: str, reading: DataOptions, dev: list[str] | None, teacher: list[str] | None) -> dict[str, Any]:
    """What a stage that trains takes besides its data and settings."""
    return {
        "dev": named_dev(dev, reading),
        "teachers": [ModelOptions(name) for name in teacher or ()],
        "progress": step_progress(label),
        "teacher_progress": progress,
        "note": note,
    }


def tell(run: Workdir, outcome: tuple[Record, bool], json: bool, following: str) -> None:
    """Print what a stage that trains did."""
    from sparsecse.stages import training_summary

    record, reused = outcome
    if reused:
        note(f"{run.path} already holds this training run.")
    show(json, asdict(record), training_summary(record), written=run.folder(record.stage))
    note(f"Wrote {run.folder(record.stage)}; next: {following}")


@takes(reading=DataOptions(), training=SIMCSE, loading=ModelOptions())
def train(
    model: options.Model,
    *,
    data: TrainData,
    reading: DataOptions,
    training: TrainingSettings,
    keep_steps: KeepSteps = "",
    dev: options.Dev = None,
    teacher: options.Teacher = None,
    loading: ModelOptions,
    threads: options.Threads = None,
    nproc: options.Processes = 1,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Train a dense encoder by SimCSE (unsup, sup), MoCo, BYOL, graded pairs, a teacher, or a weighted sum of these.

    The defaults are SimCSE's for BERT-base. With --dev the weights that are best on it are kept, else the last.
    """
    with session(workdir, threads, nproc) as run:
        from sparsecse import stages

        if training.patience and not dev:
            raise InputError(f"`patience` {training.patience} counts dev scores, and there is no dev set; give `dev`.")
        kept = split_numbers("keep_steps", keep_steps) if keep_steps else ()
        done = stages.train_dense(
            run,
            named_model(run, model, loading),
            replace(reading, name=data),
            replace(training, keep_steps=kept),
            **aids("Training", reading, dev, teacher),
        )
        tell(run, done, json, "sparsecse score --data stsb")
