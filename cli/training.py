"""The options of a training run, said once for the three commands that train; each has defaults of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsecse.cli import options
from sparsecse.cli.groups import takes

if TYPE_CHECKING:
    from sparsecse.training import TrainingSettings


@dataclass(frozen=True)
class TrainingOptions:
    """What the command line says of a training run; the defaults are those of a repair."""

    objective: options.Objective = "distill"
    learning_rate: options.LearningRate = 1e-4
    batch_size: options.TrainBatchSize = 64
    gradient_accumulation: options.Accumulation = 1
    epochs: options.Epochs = 1.0
    steps: options.Steps = 0
    warmup_ratio: options.WarmupRatio = 0.1
    weight_decay: options.WeightDecay = 0.0
    train_max_length: options.TrainMaxLength = 64
    temperature: options.Temperature = 0.05
    hard_negative_weight: options.HardNegativeWeight = 0.0
    momentum: options.Momentum = 0.995
    queue_size: options.QueueSize = 160
    dropout: options.Dropout = None
    mlp_head: options.MlpHead = False
    precision: options.Precision = "auto"
    eval_every: options.EvalEvery = 50
    patience: options.Patience = 6

    def settings(self, seed: int, keep_steps: tuple[int, ...] = ()) -> TrainingSettings:
        """The settings of the run; `InputError` where an option's value is not one."""
        from sparsecse.training import TrainingSettings, parse_objective

        return TrainingSettings(
            objective=parse_objective(self.objective),
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            gradient_accumulation=self.gradient_accumulation,
            epochs=self.epochs,
            max_steps=self.steps,
            warmup_ratio=self.warmup_ratio,
            weight_decay=self.weight_decay,
            max_length=self.train_max_length,
            temperature=self.temperature,
            hard_negative_weight=self.hard_negative_weight,
            momentum=self.momentum,
            queue_size=self.queue_size,
            dropout=self.dropout,
            mlp_head=self.mlp_head,
            precision=self.precision,
            eval_every=self.eval_every,
            patience=self.patience,
            keep_steps=keep_steps,
            seed=seed,
        )


def takes_training_options(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put every option of `TrainingOptions` in the place of a command's parameter `training`.

    Args:
        defaults: this command's own, by the names of the fields.
    """
    return takes("training", TrainingOptions, **defaults)
