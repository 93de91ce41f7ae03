"""`sparsecse train`: a dense SimCSE encoder, with early checkpoints to rewind to."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from sparsecse.cli import options
from sparsecse.cli.output import note, show, step_progress
from sparsecse.cli.session import DEFAULT_WORKDIR, data_options, model_options, session

TrainData = Annotated[
    str,
    typer.Option(
        "--data",
        "--train-data",
        help="Sentences (text, .gz, a table, a pair set, demo); pairs or triplets for --objective sup.",
        rich_help_panel="data",
    ),
]
KeepSteps = Annotated[
    str,
    typer.Option("--keep-steps", help="Steps whose weights are kept to rewind to: 50,100.", rich_help_panel="training"),
]


def train(
    model: options.Model,
    data: TrainData,
    split: options.Split = None,
    data_dir: options.DataDir = None,
    columns: options.Columns = None,
    objective: options.Objective = "unsup",
    learning_rate: options.LearningRate = 3e-5,
    batch_size: options.TrainBatchSize = 64,
    gradient_accumulation: options.Accumulation = 1,
    epochs: options.Epochs = 1.0,
    steps: options.Steps = 0,
    warmup_ratio: options.WarmupRatio = 0.0,
    weight_decay: options.WeightDecay = 0.0,
    train_max_length: options.TrainMaxLength = 32,
    temperature: options.Temperature = 0.05,
    hard_negative_weight: options.HardNegativeWeight = 0.0,
    dropout: options.Dropout = None,
    mlp_head: options.MlpHead = True,
    precision: options.Precision = "float32",
    eval_every: options.EvalEvery = 125,
    keep_steps: KeepSteps = "",
    dev: options.Dev = None,
    seed: options.Seed = 0,
    pooling: options.Pooling = None,
    normalize: options.Normalize = None,
    max_length: options.MaxLength = None,
    prompt: options.Prompt = None,
    threads: options.Threads = None,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Train a dense encoder with SimCSE: unsupervised (dropout views) or supervised (pairs, hard negatives).

    The defaults are SimCSE's for BERT-base. With --dev the weights of the best dev score are kept, else the last.
    """
    with session(workdir, threads) as run:
        from sparsecse import stages
        from sparsecse.training import TrainingSettings, parse_objective

        settings = TrainingSettings(
            objective=parse_objective(objective),
            learning_rate=learning_rate,
            batch_size=batch_size,
            gradient_accumulation=gradient_accumulation,
            epochs=epochs,
            max_steps=steps,
            warmup_ratio=warmup_ratio,
            weight_decay=weight_decay,
            max_length=train_max_length,
            temperature=temperature,
            hard_negative_weight=hard_negative_weight,
            dropout=dropout,
            mlp_head=mlp_head,
            precision=precision,
            eval_every=eval_every,
            keep_steps=options.split_numbers(keep_steps, "--keep-steps") if keep_steps else (),
            seed=seed,
        )
        record, reused = stages.train_dense(
            run,
            model_options(run, model, pooling, normalize, max_length, prompt),
            data_options(data, split, data_dir, columns),
            settings,
            data_options(dev, None, data_dir, None) if dev else None,
            progress=step_progress("Training"),
        )
        if reused:
            note(f"{run.path} already holds this training run.")
        show(json, asdict(record), stages.training_summary(record))
        note(f"Wrote {run.folder('train')}; next: sparsecse score --data stsb")
