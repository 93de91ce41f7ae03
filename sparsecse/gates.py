"""One multiplicative gate per attention head and per feed-forward neuron.

A head's gate multiplies its context vector, a neuron's gate its activation: both are the inputs of an output
projection, so a gate is a hook before that projection, the same for every family.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sparsecse.encoders import SparseCSEModel


@dataclass(frozen=True)
class Gates:
    """Gate values of each layer, in layer order.

    heads: [heads of the layer], or [batch, heads of the layer] for one copy per sentence.
    neurons: the same for feed-forward neurons.
    """

    heads: Sequence[torch.Tensor]
    neurons: Sequence[torch.Tensor]

    @classmethod
    def ones(cls, model: SparseCSEModel, batch: int | None = None) -> Gates:
        """Open gates that record gradients: shared, or one copy for each of `batch` sentences."""
        lead = () if batch is None else (batch,)

        def make(count: int) -> torch.Tensor:
            return torch.ones(*lead, count, dtype=model.dtype, device=model.device, requires_grad=True)

        sizes = model.config.layer_sizes()
        return cls([make(heads) for heads, _ in sizes], [make(neurons) for _, neurons in sizes])

    def tensors(self) -> list[torch.Tensor]:
        """All heads' gates, then all neurons' gates."""
        return [*self.heads, *self.neurons]


def _multiply(projection: Any, gate: torch.Tensor, width: int) -> torch.utils.hooks.RemovableHandle:
    def hook(_: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        hidden = inputs[0]  # [batch, length, structures * width]
        values = gate if gate.dim() == 1 else gate[:, None]
        if width > 1:
            hidden = hidden.unflatten(-1, (-1, width))
            return ((hidden * values.unsqueeze(-1)).flatten(-2),)
        return (hidden * values,)

    return projection.register_forward_pre_hook(hook)


@contextlib.contextmanager
def gated(model: SparseCSEModel, gates: Gates) -> Iterator[None]:
    """Run `model` with its heads and neurons multiplied by `gates` inside this context."""
    handles = []
    try:
        for layer, heads, neurons in zip(model.encoder.layer, gates.heads, gates.neurons, strict=True):
            if heads.shape[-1]:
                handles.append(_multiply(layer.attention.output.dense, heads, model.config.attention_head_size))
            if neurons.shape[-1]:
                handles.append(_multiply(layer.output.dense, neurons, 1))
        yield
    finally:
        for handle in handles:
            handle.remove()
