"""`sparsecse finetune`: repair the pruned model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from sparsecse.cli import options
from sparsecse.cli.output import note, show, step_progress
from sparsecse.cli.session import DEFAULT_WORKDIR, data_options, session
from sparsecse.cli.train import TrainData

Teacher = Annotated[
    str | None,
    typer.Option("--teacher", help="Model to distil from; by default the dense one.", rich_help_panel="training"),
]


def finetune(
    data: TrainData,
    split: options.Split = None,
    data_dir: options.DataDir = None,
    columns: options.Columns = None,
    objective: options.Objective = "distill",
    learning_rate: options.LearningRate = 5e-5,
    batch_size: options.TrainBatchSize = 64,
    gradient_accumulation: options.Accumulation = 1,
    epochs: options.Epochs = 1.0,
    steps: options.Steps = 0,
    warmup_ratio: options.WarmupRatio = 0.1,
    weight_decay: options.WeightDecay = 0.0,
    train_max_length: options.TrainMaxLength = 64,
    temperature: options.Temperature = 0.05,
    hard_negative_weight: options.HardNegativeWeight = 0.0,
    dropout: options.Dropout = None,
    mlp_head: options.MlpHead = False,
    precision: options.Precision = "float32",
    eval_every: options.EvalEvery = 50,
    dev: options.Dev = None,
    teacher: Teacher = None,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Repair the newest pruned or rewound model, by distillation from the dense one or with SimCSE's objectives.

    The weights of the best dev score are kept, those before the repair included; the dev set is by default the one
    that the scores were taken on.
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
            seed=seed,
        )
        record, reused = stages.finetune(
            run,
            data_options(data, split, data_dir, columns),
            settings,
            data_options(dev, None, data_dir, None) if dev else None,
            teacher=stages.ModelOptions(teacher) if teacher else None,
            progress=step_progress("Fine-tuning"),
        )
        if reused:
            note(f"{run.path} already holds this repair.")
        show(json, asdict(record), stages.training_summary(record))
        note(f"Wrote {run.folder('finetune')}; next: sparsecse eval, sparsecse pack --out DIR")
