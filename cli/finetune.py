"""`sparsecse finetune`: repair the pruned model."""

from __future__ import annotations

from dataclasses import asdict, replace

from sparsecse.cli import options
from sparsecse.cli.groups import takes
from sparsecse.cli.output import note, progress, show, step_progress
from sparsecse.cli.session import DEFAULT_WORKDIR, named_data, session
from sparsecse.cli.train import TrainData
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.training.settings import TrainingSettings


@takes(reading=DataOptions(), training=TrainingSettings())
def finetune(
    *,
    data: TrainData,
    reading: DataOptions,
    training: TrainingSettings,
    dev: options.Dev = None,
    teacher: options.Teacher = None,
    threads: options.Threads = None,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Repair the newest pruned or rewound model, by distillation from the dense one or with another objective.

    The weights of the best dev score are kept, those before the repair included; the dev set is by default the one
    that the scores were taken on. Where these have no gold scores and there is no --dev, agreement with
    the dense model on held-out training sentences picks the weights (--select).
    """
    with session(workdir, threads) as run:
        from sparsecse import stages

        record, reused = stages.finetune(
            run,
            replace(reading, name=data),
            training,
            named_data(dev, reading),
            teachers=[ModelOptions(name) for name in teacher or ()],
            progress=step_progress("Fine-tuning"),
            teacher_progress=progress,
            note=note,
        )
        if reused:
            note(f"{run.path} already holds this repair.")
        show(json, asdict(record), stages.training_summary(record))
        note(f"Wrote {run.folder('finetune')}; next: sparsecse eval, sparsecse pack --out DIR")
