"""The sums over sentences that scores are made of; each takes what `gradients.accumulate` hands out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from sparsecse import distributed
from sparsecse.encoders import Encoder


class Mean:
    """E_x of a function of dL/dg_x, gate by gate, summed in float64."""

    def __init__(self, encoder: Encoder, function: Callable[[torch.Tensor], torch.Tensor]):
        """function: elementwise, such as `torch.abs`."""
        self._function = function
        self._sums = [torch.zeros(n, dtype=torch.float64, device=encoder.device) for n in _gate_sizes(encoder)]
        self._count = torch.zeros((), dtype=torch.float64)

    def add(self, rows: torch.Tensor, gradients: Sequence[torch.Tensor]) -> None:
        self._count += len(rows)
        for total, gradient in zip(self._sums, gradients, strict=True):
            total += self._function(gradient).sum(dim=0, dtype=torch.float64)

    def add_up(self) -> None:
        distributed.add_up([*self._sums, self._count])

    def result(self) -> list[torch.Tensor]:
        """[structures] of each layer's heads, then of each layer's neurons."""
        return [total / max(1.0, float(self._count)) for total in self._sums]


class BatchSums:
    """The sum of dL/dg_x over fixed batches of sentences, in float64; 8 bytes per batch and gate."""

    def __init__(self, encoder: Encoder, sentences: int, batch_size: int, seed: int):
        """Batches of `batch_size` sentences in random order; the last one may be smaller."""
        order = torch.randperm(sentences, generator=torch.Generator().manual_seed(seed))
        self._batch_of = torch.empty_like(order)
        self._batch_of[order] = torch.arange(sentences) // batch_size
        self._batch_of = self._batch_of.to(encoder.device)
        count = -(-sentences // batch_size)
        self._sums = [torch.zeros(count, n, dtype=torch.float64, device=encoder.device) for n in _gate_sizes(encoder)]

    def add(self, rows: torch.Tensor, gradients: Sequence[torch.Tensor]) -> None:
        for total, gradient in zip(self._sums, gradients, strict=True):
            total.index_add_(0, self._batch_of[rows], gradient.double())

    def add_up(self) -> None:
        distributed.add_up(self._sums)

    def result(self) -> list[torch.Tensor]:
        """[batches, structures] of each layer's heads, then of each layer's neurons."""
        return self._sums


class BlockFisher:
    """E_x[g g^T] within each layer's heads and within each layer's neurons, g being dL/dg_x, in float32.

    It holds the square of each layer's neurons: 57 MB for MiniLM's six layers, 453 MB for twelve of 3,072 neurons.
    """

    def __init__(self, encoder: Encoder):
        self._sums = [torch.zeros(n, n, device=encoder.device) for n in _gate_sizes(encoder)]
        self._count = torch.zeros((), dtype=torch.float64)

    def add(self, rows: torch.Tensor, gradients: Sequence[torch.Tensor]) -> None:
        self._count += len(rows)
        for total, gradient in zip(self._sums, gradients, strict=True):
            own = gradient.float()
            total.addmm_(own.T, own)

    def add_up(self) -> None:
        distributed.add_up([*self._sums, self._count])

    def result(self) -> list[torch.Tensor]:
        """[structures, structures] of each layer's heads, then of each layer's neurons."""
        return [total / max(1.0, float(self._count)) for total in self._sums]


def _gate_sizes(encoder: Encoder) -> list[int]:
    sizes = encoder.model.config.layer_sizes()
    return [heads for heads, _ in sizes] + [neurons for _, neurons in sizes]
