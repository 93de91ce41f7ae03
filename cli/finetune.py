"""`sparsecse finetune`: repair the pruned model."""

from __future__ import annotations

from dataclasses import replace

from sparsecse.cli import options
from sparsecse.cli.groups import takes
from sparsecse.cli.session import DEFAULT_WORKDIR, session
from sparsecse.cli.train import TrainData, aids, tell
from sparsecse.sources import DataOptions
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
    nproc: options.Processes = 1,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Repair the newest pruned or rewound model, by distillation from the dense one or with another objective.

    Of the weights at which no labelled kind of dev set lies more than --tolerance below the dense model, those with the
    largest mean gain over all kinds are kept, the weights before the repair included. Without --dev, agreement
    with the dense model on held-out training sentences is one of the kinds.
    """
    with session(workdir, threads, nproc) as run:
        from sparsecse import stages

        done = stages.finetune(run, replace(reading, name=data), training, **aids("Fine-tuning", reading, dev, teacher))
        tell(run, done, json, "sparsecse eval, sparsecse pack --out DIR")
