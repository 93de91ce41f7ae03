"""One multiplicative gate per attention head and per feed-forward neuron.

A head's gate multiplies its context vector, a neuron's gate its activation: both are the inputs of an output
projection, so a gate is a hook before that projection, the same for every family. On a GPU the kernel of attention,
which gates by itself, takes those of heads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from sparsecse.encoders import SparseCSEModel
from sparsecse.encoders.pooling import segment_reduce


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


class _SentenceGates(torch.autograd.Function):
    """Packed tokens times the gates of their sentence.

    The gates are never spread over the tokens for backward, and their gradient is summed in float32 at least.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, gate: torch.Tensor, cu_lengths: torch.Tensor) -> torch.Tensor:
        """hidden: [total_tokens, structures, width]; gate: [sentences, structures]; returns what hidden is."""
        ctx.save_for_backward(hidden, gate, cu_lengths)
        # Scoring has them all open: then nothing is multiplied, here and in backward.
        ctx.are_open = bool((gate == 1).all())
        return hidden.view_as(hidden) if ctx.are_open else hidden * _of_tokens(gate, cu_lengths)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        hidden, gate, cu_lengths = ctx.saved_tensors
        product = grad * hidden
        if product.shape[-1] > 1:
            product = product.sum(dim=-1, keepdim=True, dtype=torch.promote_types(product.dtype, torch.float32))
        grad_gate = segment_reduce(product.squeeze(-1), cu_lengths, "sum").to(gate.dtype)
        return grad if ctx.are_open else grad * _of_tokens(gate, cu_lengths), grad_gate, None


def _of_tokens(gate: torch.Tensor, cu_lengths: torch.Tensor) -> torch.Tensor:
    """[sentences, structures] -> [total_tokens, structures, 1]."""
    return gate.repeat_interleave(cu_lengths.diff(), dim=0).unsqueeze(-1)


def _multiply(
    projection: Any, gate: torch.Tensor, width: int, cu_lengths: torch.Tensor | None
) -> torch.utils.hooks.RemovableHandle:
    def hook(_: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        hidden = inputs[0].unflatten(-1, (-1, width))  # [..., structures, width]
        if gate.dim() == 1:
            hidden = hidden * gate.unsqueeze(-1)
        elif cu_lengths is None:
            hidden = hidden * gate[:, None, :, None]
        else:
            hidden = _SentenceGates.apply(hidden, gate, cu_lengths)
        return (hidden.flatten(-2),)

    return projection.register_forward_pre_hook(hook)


def _gate_attention(attention: Any, gate: torch.Tensor) -> torch.utils.hooks.RemovableHandle:
    """The same for packed heads: their context is gated, and the gate's gradient made, where it is computed."""

    def hook(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, attend, *place = inputs
        return hidden, partial(attend, gate=gate), *place

    return attention.register_forward_pre_hook(hook)


def _fuses(gate: torch.Tensor) -> bool:
    """Whether attention has gates that cost little. On the CPU it multiplies after the kernel, even by 1."""
    return gate.is_cuda


@contextlib.contextmanager
def gated(model: SparseCSEModel, gates: Gates, cu_lengths: torch.Tensor | None = None) -> Iterator[None]:
    """Run `model` with its heads and neurons multiplied by `gates` inside this context.

    cu_lengths: [sentences + 1], where each packed sentence begins; for gates of every sentence and packed input.
    """
    handles = []
    try:
        for layer, heads, neurons in zip(model.encoder.layer, gates.heads, gates.neurons, strict=True):
            if heads.shape[-1] and heads.dim() == 2 and cu_lengths is not None and _fuses(heads):
                handles.append(_gate_attention(layer.attention.self, heads))
            elif heads.shape[-1]:
                width = model.config.attention_head_size
                handles.append(_multiply(layer.attention.output.dense, heads, width, cu_lengths))
            if neurons.shape[-1]:
                handles.append(_multiply(layer.output.dense, neurons, 1, cu_lengths))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def closed(layer: nn.Module, kind: str, indices: torch.Tensor, width: int) -> Iterator[None]:
    """Run one layer of a model with some of its structures removed: with their gates at 0.

    kind: "heads" or "neurons"; indices: their numbers in the layer; width: size of a head.
    """
    projection, width = _projection(layer, kind, width)
    gate = torch.ones(projection.in_features // width, dtype=projection.weight.dtype)
    gate[indices] = 0
    handle = _multiply(projection, gate.to(projection.weight.device), width, None)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def observed(model: SparseCSEModel, observe: Callable[[str, int, torch.Tensor], None]) -> Iterator[None]:
    """Show what gates would multiply: `observe` is called with "heads" or "neurons", the layer, and the tensor.

    The tensor is [total_tokens, structures, width] for packed tokens; width is 1 for neurons.
    """
    handles = []
    try:
        for number, layer in enumerate(model.encoder.layer):
            for kind, count in zip(("heads", "neurons"), model.config.layer_sizes()[number], strict=True):
                if count:
                    projection, width = _projection(layer, kind, model.config.attention_head_size)

                    def hook(_: nn.Module, inputs: Any, kind: str = kind, n: int = number, w: int = width) -> None:
                        observe(kind, n, inputs[0].unflatten(-1, (-1, w)))

                    handles.append(projection.register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _projection(layer: Any, kind: str, head_size: int) -> tuple[Any, int]:
    """The output projection that a kind of structure feeds, and the width of one structure there."""
    return (layer.attention.output.dense, head_size) if kind == "heads" else (layer.output.dense, 1)
