"""What a training run is told: objective, optimiser, schedule, and what to keep of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from sparsecse.errors import InputError
from sparsecse.guard import check_tolerance, tolerance_setting
from sparsecse.settings import checked_widths, choose, documented, setting, widths_setting

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
        choose("objective", name, OBJECTIVES)
        try:
            weights[name] = float(weight or 1.0)
        except ValueError:
            raise InputError(
                f"`objective`: the weight '{weight}' of {name} is not a number; write {name}=0.5."
            ) from None
        if not 0 < weights[name] < float("inf"):
            raise InputError(f"`objective`: the weight of {name} is {weight}; it must be above 0.")
    if {"sup", "graded"} <= weights.keys():
        raise InputError(
            "`objective`: sup takes every pair as a positive one and graded takes its score; leave one of them out."
        )
    return weights


def objective_text(weights: Mapping[str, float]) -> str:
    """{name: weight} as `parse_objective` reads it."""
    return ",".join(name if weight == 1 else f"{name}={weight:g}" for name, weight in weights.items())


@documented
@dataclass(frozen=True)
class TrainingSettings:
    """Settings of one run; the defaults are those of a repair, and `SIMCSE` has those of a dense training.

    The learning rate rises over the warm-up and then falls to 0, both linearly. `batch_size` is also the set of
    in-batch negatives. Momentum and queue follow ESimCSE (Wu et al. 2022), which has 0.995 and 2.5 batches.
    """

    objective: Mapping[str, float] = setting(
        "distill",
        "unsup, sup, moco, byol, graded, distill, or a weighted sum: distill=1,unsup=0.1.",
        parse=parse_objective,
        text=objective_text,
    )
    learning_rate: float = setting(2e-4, "Peak learning rate of AdamW.")
    batch_size: int = setting(64, "Examples per training pass.", "--train-batch-size")
    mini_batch_size: int = setting(
        0,
        "Examples that go through the model at a time, in each process; the loss stays that of the whole batch, whose "
        "memory is then bounded, and each goes through twice. 0: all.",
    )
    gradient_checkpointing: bool = setting(
        False,
        "Keep what goes into each layer alone for the backward pass, which computes the rest again: less memory for a "
        "third more time.",
    )
    gradient_accumulation: int = setting(1, "Passes per optimiser step.")
    epochs: float = setting(1.0, "Passes over the data.")
    max_steps: int = setting(0, "Optimiser steps, in place of `epochs` when above 0.", "--steps")
    time_budget: float | None = setting(
        None,
        "Minutes that training may take, the teacher's pass included; fewer steps are planned where all would not fit.",
        metavar="MINUTES",
    )
    warmup_ratio: float = setting(0.1, "Part of the steps with rising rate.")
    weight_decay: float = setting(0.0, "AdamW's weight decay.")
    max_grad_norm: float = 1.0
    max_length: int = setting(128, "Tokens kept of a training sentence.", "--train-max-length")
    temperature: float = setting(0.05, "Temperature of InfoNCE and CoSENT.")
    hard_negative_weight: float = setting(0.0, "Added to the logit of an anchor's own hard negative.")
    momentum: float = setting(0.995, "What moco's and byol's momentum encoder keeps of itself at a step.")
    queue_size: int = setting(160, "Earlier keys that moco has as negatives.")
    similarity_weight: float = 10.0
    matryoshka_dims: tuple[int, ...] = widths_setting(
        "Widths at which vectors are to be good, their whole size among them: 384,256,128. The loss is the sum over "
        "them, the objective of the scores their mean; by default that of whole vectors."
    )
    dropout: float | None = setting(
        None, "Dropout while training; by default 0 for distill alone, else the model's own."
    )
    mlp_head: bool = setting(False, "SimCSE's MLP over the vectors in contrastive objectives, in training only.")
    precision: str = setting("auto", "Of the passes over data: float32, bfloat16, or auto: bfloat16 where it is fast.")
    eval_every: int = setting(50, "Steps between dev scores and checkpoints.")
    patience: int = setting(6, "Dev scores without a new best after which training stops; 0: never.")
    tolerance: float = tolerance_setting()
    keep_steps: tuple[int, ...] = ()
    seed: int = setting(0, "Seed of everything random.")

    def __post_init__(self) -> None:
        if isinstance(self.objective, str):
            object.__setattr__(self, "objective", parse_objective(self.objective))

        def check(holds: bool, name: str, wanted: str) -> None:
            if not holds:
                raise InputError(f"`{name}` {getattr(self, name)} is not {wanted}.")

        for field in fields(self):
            value = getattr(self, field.name)
            check(not isinstance(value, float) or math.isfinite(value), field.name, "a finite number")
        check(self.learning_rate > 0, "learning_rate", "above 0")
        check(self.batch_size >= 2, "batch_size", "at least 2")
        check(self.mini_batch_size >= 0, "mini_batch_size", "0 (whole batches) or more")
        check(self.gradient_accumulation >= 1, "gradient_accumulation", "at least 1")
        check(self.max_steps >= 0, "max_steps", "0 (whole epochs) or more")
        check(self.epochs > 0, "epochs", "above 0")
        check(self.time_budget is None or self.time_budget > 0, "time_budget", "above 0")
        check(0 <= self.warmup_ratio < 1, "warmup_ratio", "from 0 to below 1")
        check(self.temperature > 0, "temperature", "above 0")
        check(0 <= self.momentum < 1, "momentum", "from 0 to below 1")
        check(self.queue_size >= 1, "queue_size", "at least 1")
        check(self.patience >= 0, "patience", "0 (never stop early) or more")
        check(self.eval_every >= 1, "eval_every", "at least 1")
        widths = checked_widths(self.matryoshka_dims)
        object.__setattr__(self, "matryoshka_dims", widths)
        over_the_vector = {"moco", "byol", *(("unsup", "sup") if self.mlp_head else ())} & self.objective.keys()
        if widths and over_the_vector:
            raise InputError(
                f"`matryoshka_dims` cuts the vectors, and `objective` {min(over_the_vector)} has layers over them; "
                f"take distill or graded, or unsup or sup without `mlp_head`."
            )
        choose("precision", self.precision, PRECISIONS)
        check_tolerance(self.tolerance)
        check(self.dropout is None or 0 <= self.dropout < 1, "dropout", "from 0 to below 1")

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


SIMCSE = TrainingSettings(
    objective={"unsup": 1.0},
    learning_rate=3e-5,
    warmup_ratio=0.0,
    max_length=32,
    mlp_head=True,
    eval_every=125,
    patience=0,
)
"""The settings of SimCSE for BERT-base (Gao et al. 2021), which `sparsecse train` begins with."""
