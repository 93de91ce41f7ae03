"""`sparsecse train`: a dense SimCSE encoder, with early checkpoints to rewind to."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from sparsecse.cli import options
from sparsecse.cli.output import note, progress, show, step_progress
from sparsecse.cli.session import DEFAULT_WORKDIR, data_options, model_options, session
from sparsecse.cli.training import TrainingOptions, takes_training_options

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


@takes_training_options(
    objective="unsup",
    learning_rate=3e-5,
    warmup_ratio=0.0,
    train_max_length=32,
    mlp_head=True,
    eval_every=125,
    patience=0,
)
def train(
    model: options.Model,
    *,
    data: TrainData,
    split: options.Split = None,
    data_dir: options.DataDir = None,
    columns: options.Columns = None,
    training: TrainingOptions,
    keep_steps: KeepSteps = "",
    dev: options.Dev = None,
    teacher: options.Teacher = None,
    seed: options.Seed = 0,
    pooling: options.Pooling = None,
    normalize: options.Normalize = None,
    max_length: options.MaxLength = None,
    prompt: options.Prompt = None,
    threads: options.Threads = None,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Train a dense encoder by SimCSE (unsup, sup), MoCo, BYOL, graded pairs, a teacher, or a weighted sum of these.

    The defaults are SimCSE's for BERT-base. With --dev the weights of the best dev score are kept, else the last.
    """
    with session(workdir, threads) as run:
        from sparsecse import stages

        kept = options.split_numbers(keep_steps, "--keep-steps") if keep_steps else ()
        settings = training.settings(seed, kept)
        record, reused = stages.train_dense(
            run,
            model_options(run, model, pooling, normalize, max_length, prompt),
            data_options(data, split, data_dir, columns),
            settings,
            data_options(dev, None, data_dir, None) if dev else None,
            teachers=[stages.ModelOptions(name) for name in teacher or ()],
            progress=step_progress("Training"),
            teacher_progress=progress,
        )
        if reused:
            note(f"{run.path} already holds this training run.")
        show(json, asdict(record), stages.training_summary(record))
        note(f"Wrote {run.folder('train')}; next: sparsecse score --data stsb")
