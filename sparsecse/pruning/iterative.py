"""Pruning in rounds: a part of the structures leaves, what is left is scored again (and reconstructed), and so on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from sparsecse.encoders import Encoder
from sparsecse.pruning.masks import Budget, Mask, select
from sparsecse.pruning.reconstruction import reconstruct
from sparsecse.pruning.surgery import prune
from sparsecse.scoring import Scores

Rescore = Callable[[Encoder], Scores]


def fractions(rounds: int, schedule: str) -> list[float]:
    """The part of the budget that is spent after each round, ascending to 1.

    linear: k / rounds. cubic: 1 - (1 - k / rounds)^3, most of it at first (Zhu and Gupta 2017).
    """
    done = [(k + 1) / rounds for k in range(rounds)]
    return done if schedule == "linear" else [1 - (1 - part) ** 3 for part in done]


def _spread(before: Sequence[torch.Tensor], kept: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """A mask of what an earlier mask kept, as a mask of the whole model."""
    found = []
    for whole, own in zip(before, kept, strict=True):
        spread = whole.clone()
        spread[whole] = own
        found.append(spread)
    return tuple(found)


def prune_iteratively(
    dense: Encoder,
    scores: Scores,
    budget: Budget,
    rounds: int,
    schedule: str,
    rescore: Rescore,
    *,
    reference: Encoder | None = None,
    calibration: Sequence[Sequence[int]] = (),
    strength: float = 0.1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Mask, Encoder]:
    """Spend a budget in rounds.

    Args:
        dense: the model that the scores belong to; left as it is.
        scores: of the first round.
        budget: heads and neurons removed in all.
        rescore: scores what is left, before each later round.
        reference, calibration: with them every round but the last ends with `reconstruct` towards the reference on
            these sentences' token ids; the last one is the caller's to repair.
        strength: of the reconstruction.

    Returns:
        what stays, as a mask of the dense model, and the encoder as the rounds leave it.
    """
    stays = Mask(
        tuple(torch.ones(len(x), dtype=torch.bool) for x in scores.heads),
        tuple(torch.ones(len(x), dtype=torch.bool) for x in scores.neurons),
    )
    encoder, gone = dense, Budget(0, 0)
    parts = fractions(rounds, schedule)
    for number, part in enumerate(parts):
        target = Budget(round(part * budget.heads), round(part * budget.neurons))
        own = scores if number == 0 else rescore(encoder)
        mask = select(own, Budget(target.heads - gone.heads, target.neurons - gone.neurons))
        encoder, gone = prune(encoder, mask), target
        stays = Mask(_spread(stays.heads, mask.heads), _spread(stays.neurons, mask.neurons))
        if reference is not None and number + 1 < rounds:
            reconstruct(encoder, reference, calibration, strength=strength)
        progress(number + 1, rounds)
    return stays, encoder
