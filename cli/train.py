"""`sparsecse train`: a dense SimCSE encoder, with early checkpoints to rewind to."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated

import typer

from sparsecse.cli import options
from sparsecse.cli.groups import takes
from sparsecse.cli.output import note, progress, show, step_progress
from sparsecse.cli.session import DEFAULT_WORKDIR, named_data, named_model, session
from sparsecse.errors import InputError
from sparsecse.settings import split_numbers
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.training.settings import SIMCSE, TrainingSettings

TrainData = Annotated[
    str,
    typer.Option(
        "--data",
        "--train-data",
        help="Sentences (text, .gz, a table, a pair set, demo); for --objective sup pairs or triplets, for graded "
        "pairs with scores.",
        rich_help_panel="data",
    ),
]
KeepSteps = Annotated[
    str,
    typer.Option("--keep-steps", help="Steps whose weights are kept to rewind to: 50,100.", rich_help_panel="training"),
]


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
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Train a dense encoder by SimCSE (unsup, sup), MoCo, BYOL, graded pairs, a teacher, or a weighted sum of these.

    The defaults are SimCSE's for BERT-base. With --dev the weights of the best dev score are kept, else the last.
    """
    with session(workdir, threads) as run:
        from sparsecse import stages

        if training.patience and not dev:
            raise InputError(f"`patience` {training.patience} counts dev scores, and there is no dev set; give `dev`.")
        kept = split_numbers("keep_steps", keep_steps) if keep_steps else ()
        record, reused = stages.train_dense(
            run,
            named_model(run, model, loading),
            replace(reading, name=data),
            replace(training, keep_steps=kept),
            named_data(dev, reading),
            teachers=[ModelOptions(name) for name in teacher or ()],
            progress=step_progress("Training"),
            teacher_progress=progress,
            note=note,
        )
        if reused:
            note(f"{run.path} already holds this training run.")
        show(json, asdict(record), stages.training_summary(record))
        note(f"Wrote {run.folder('train')}; next: sparsecse score --data stsb")
