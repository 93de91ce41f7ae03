"""First-order scores: the paper's contribution E_x |dL / dg|, its signed sum, and two variants of the authors' code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from sparsecse.datasets import PairSet
from sparsecse.encoders import Encoder
from sparsecse.scoring.accumulators import BatchSums, Mean
from sparsecse.scoring.gradients import accumulate, accumulate_one
from sparsecse.scoring.scores import Scores, unit_layers
from sparsecse.scoring.settings import Objective, ScoringSettings

BATCH = 100
"""Sentences in a batch of `taylor_batch`; part of its definition, since the sum over a batch comes before |...|."""


def contributions(
    encoder: Encoder,
    pairs: PairSet,
    objective: Objective | None = None,
    *,
    batch_size: int = 64,
    precision: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Mean over sentences of |dL/dg| for every gate, each sentence having its own copy of the gates.

    The uniformity is the exact one over all pairs of distinct sentences, and the result does not depend on
    `batch_size` and memory, up to rounding; see `gradients.accumulate`, also for dropout positives. An, Zhang and Song,
    arXiv 2311.03881.

    Args:
        encoder: the dense (or already pruned) encoder; is left as it is.
        pairs: graded pairs; their distinct sentences are the set, those at or above the minimum the positives. Or
            `DropoutViews`.
        batch_size: sentences of average length in a pass; see `Encoder.batches`.
        precision: one of `PRECISIONS`; see `resolved_precision`.
        progress: called with (sentences done, sentences in all); each sentence is passed over twice.
    """
    objective = objective or Objective()
    mean = Mean(encoder, torch.abs)
    values = accumulate(
        encoder, pairs, {objective: [mean]}, batch_size=batch_size, precision=precision, progress=progress
    )
    return Scores.of(mean.result(), values[objective])


def taylor_signed(
    encoder: Encoder,
    pairs: PairSet,
    settings: ScoringSettings,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """-sum over sentences of dL/dg_x: what the first order promises L to change by when the structure is removed.

    In the units of L, so that the scores of what leaves together add up to the promise for all of it.
    """
    mean = Mean(encoder, torch.neg)
    values = accumulate_one(encoder, pairs, settings, mean, progress)
    count = len(pairs.sentences())
    return Scores.of([count * signed for signed in mean.result()], values, combine="sums")


def taylor_batch(
    encoder: Encoder,
    pairs: PairSet,
    settings: ScoringSettings,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Mean over batches of |sum over the batch of dL/dg_x|, each layer's then divided by their L2 norm.

    As the code of StarK and MiniDisc (Zhang et al. 2022) takes it, with `BATCH` sentences in a batch, drawn by the
    seed. L is the whole set's, not the batch's, so that `settings.batch_size` does not enter.
    """
    sums = BatchSums(encoder, len(pairs.sentences()), BATCH, settings.seed)
    values = accumulate_one(encoder, pairs, settings, sums, progress)
    means = [total.abs().mean(dim=0) for total in sums.result()]
    return Scores.of(unit_layers(means), values)


def taylor_mixed(
    encoder: Encoder,
    pairs: PairSet,
    settings: ScoringSettings,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """lambda * E_x |d align / dg| + (1 - lambda) * E_x |d uniform / dg|, each layer's first divided by their L2 norm.

    What StarK and MiniDisc mix are normalised scores; `contributions` mixes the losses.
    """
    weight = settings.objective.alignment_weight
    parts = {replace(settings.objective, alignment_weight=own): Mean(encoder, torch.abs) for own in (1.0, 0.0)}
    values = accumulate(
        encoder,
        pairs,
        {own: [mean] for own, mean in parts.items()},
        batch_size=settings.batch_size,
        precision=settings.precision,
        progress=progress,
    )
    align, uniform = (unit_layers(mean.result()) for mean in parts.values())
    mixed = [weight * a + (1 - weight) * u for a, u in zip(align, uniform, strict=True)]
    one = dict(next(iter(values.values())))
    one["objective"] = weight * one["alignment"] + (1 - weight) * one["uniformity"]
    return Scores.of(mixed, one)
