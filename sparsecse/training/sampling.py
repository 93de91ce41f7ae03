"""Which examples each batch of a training takes: shuffled epochs, one after another, without end."""

from __future__ import annotations

import functools

import torch

from sparsecse.training.settings import TrainingSettings


@functools.lru_cache(maxsize=1)
def _epoch(count: int, seed: int, epoch: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def rows_at(count: int, size: int, seed: int, position: int) -> list[int]:
    """Row numbers of the batch at a position of the endless stream of shuffled epochs."""
    per_epoch = max(1, count // size)
    epoch, index = divmod(position, per_epoch)
    return _epoch(count, seed, epoch)[index * size : (index + 1) * size].tolist()


def visited_rows(count: int, size: int, seed: int, positions: int) -> list[int]:
    """The distinct rows, ascending, of the batches at the positions before `positions`."""
    per_epoch = max(1, count // size)
    seen = torch.zeros(count, dtype=torch.bool)
    for epoch, first in enumerate(range(0, positions, per_epoch)):
        seen[_epoch(count, seed, epoch)[: min(per_epoch, positions - first) * size]] = True
        if seen.all():
            break
    return seen.nonzero().flatten().tolist()


def unseen_rows(count: int, settings: TrainingSettings) -> list[int]:
    """The rows, ascending, of `count` examples that no step of a training with these settings takes."""
    positions = settings.steps(count) * settings.gradient_accumulation
    seen = set(visited_rows(count, min(settings.batch_size, count), settings.seed, positions))
    return [row for row in range(count) if row not in seen]
