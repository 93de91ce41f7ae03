"""What a training run is told: objective, optimiser, schedule, and what to keep of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from sparsecse.errors import InputError
from sparsecse.kernels.dispatch import fast_bfloat16

PRECISIONS = ("auto", "float32", "bfloat16")

OBJECTIVES = {
    "unsup": "unsupervised SimCSE: a sentence and itself under another dropout mask are the positive pair",
    "sup": "supervised SimCSE: given positives, and hard negatives where the data has them",
    "moco": "contrast with keys of a momentum encoder, those of the batch and a queue of earlier ones",
    "byol": "predict what a momentum encoder makes of the other dropout view; no negatives",
    "graded": "CoSENT: pairs with a higher gold score must have the higher cosine",
    "distill": "the vectors and in-batch similarities of the dense model",
}


def parse_objective(text: str) -> dict[str, float]:
    """`distill`, or a weighted sum such as `distill=1,unsup=0.1`, as {name: weight}."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        if name not in OBJECTIVES:
            raise InputError(f"--objective: '{name}' is unknown; choose from {', '.join(OBJECTIVES)}.")
        try:
            weights[name] = float(weight or 1.0)
        except ValueError:
            raise InputError(
                f"--objective: the weight '{weight}' of {name} is not a number; write {name}=0.5."
            ) from None
        if not 0 < weights[name] < float("inf"):
            raise InputError(f"--objective: the weight of {name} is {weight}; it must be above 0.")
    if {"sup", "graded"} <= weights.keys():
        raise InputError(
            "--objective: sup takes every pair as a positive one and graded takes its score; leave one of them out."
        )
    return weights


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of one run; the defaults are those of `sparsecse finetune`.

    Attributes:
        objective: {name of `OBJECTIVES`: weight}.
        learning_rate: AdamW's peak rate; linear warm-up over `warmup_ratio` of the steps, then linear decay to 0.
        batch_size: examples per forward pass, which is also the set of in-batch negatives.
        gradient_accumulation: forward passes per optimiser step.
        max_steps: optimiser steps; 0 means `epochs` passes over the data.
        max_length: tokens kept of a training sentence.
        temperature: of InfoNCE and CoSENT.
        hard_negative_weight: of InfoNCE.
        momentum: what the momentum encoder of "moco" and "byol" keeps of itself at a step (ESimCSE, Wu et al. 2022:
            0.995).
        queue_size: earlier keys that "moco" has as negatives (ESimCSE: 2.5 batches).
        similarity_weight: of the similarity matrices' error in distillation.
        dropout: dropout probability while training; None is 0 for distillation alone, and else the model's own.
        mlp_head: put SimCSE's linear + tanh over the vectors in contrastive objectives; it is dropped after training.
        precision: "float32", "bfloat16" (autocast; the weights stay float32), or "auto": bfloat16 where it is fast.
        eval_every: steps between dev scores and checkpoints.
        patience: dev scores in a row without a new best after which training ends; 0 means never.
        keep_steps: steps whose weights are written out, to rewind to.
    """

    objective: Mapping[str, float] = field(default_factory=lambda: {"distill": 1.0})
    learning_rate: float = 1e-4
    batch_size: int = 64
    gradient_accumulation: int = 1
    epochs: float = 1.0
    max_steps: int = 0
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_length: int = 64
    temperature: float = 0.05
    hard_negative_weight: float = 0.0
    momentum: float = 0.995
    queue_size: int = 160
    similarity_weight: float = 10.0
    dropout: float | None = None
    mlp_head: bool = False
    precision: str = "float32"
    eval_every: int = 50
    patience: int = 0
    keep_steps: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        def check(holds: bool, option: str, value: object, wanted: str) -> None:
            if not holds:
                raise InputError(f"--{option} {value} is not {wanted}.")

        check(self.learning_rate > 0, "learning-rate", self.learning_rate, "above 0")
        check(self.batch_size >= 2, "batch-size", self.batch_size, "at least 2")
        check(self.gradient_accumulation >= 1, "gradient-accumulation", self.gradient_accumulation, "at least 1")
        check(self.max_steps >= 0, "steps", self.max_steps, "0 (whole epochs) or more")
        check(self.epochs > 0, "epochs", self.epochs, "above 0")
        check(0 <= self.warmup_ratio < 1, "warmup-ratio", self.warmup_ratio, "from 0 to below 1")
        check(self.temperature > 0, "temperature", self.temperature, "above 0")
        check(0 <= self.momentum < 1, "momentum", self.momentum, "from 0 to below 1")
        check(self.queue_size >= 1, "queue-size", self.queue_size, "at least 1")
        check(self.patience >= 0, "patience", self.patience, "0 (never stop early) or more")
        check(self.eval_every >= 1, "eval-every", self.eval_every, "at least 1")
        check(self.precision in PRECISIONS, "precision", self.precision, "float32, bfloat16 or auto")
        check(self.dropout is None or 0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which forward passes on a device run."""
        enabled = self.precision == "bfloat16"
        if self.precision == "auto":
            enabled = fast_bfloat16() if device.type == "cpu" else torch.cuda.is_bf16_supported()
        return torch.autocast(device.type, torch.bfloat16, enabled=enabled)

    def steps(self, examples: int) -> int:
        """Optimiser steps for a data set of that many examples."""
        if self.max_steps:
            return self.max_steps
        return max(1, round(self.epochs * examples / (self.batch_size * self.gradient_accumulation)))

    def learning_rate_at(self, step: int, total: int) -> float:
        """The rate of optimiser step `step` (from 0) of `total`."""
        warmup = round(self.warmup_ratio * total)
        if step < warmup:
            return self.learning_rate * (step + 1) / (warmup + 1)
        return self.learning_rate * (total - step) / max(1, total - warmup)
