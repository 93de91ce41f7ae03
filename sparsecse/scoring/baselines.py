"""Scores that look at no data: the norms of a structure's weights, and chance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sparsecse.encoders import Encoder
from sparsecse.scoring.scores import Scores


def magnitude(encoder: Encoder) -> Scores:
    """L2 norm of the weights that would leave with a head (query, key, value, output) or a neuron (in, out)."""
    sums = _weight_sums(encoder, torch.square)
    return Scores(tuple(total.sqrt() for total in sums.heads), tuple(total.sqrt() for total in sums.neurons))


def l1(encoder: Encoder) -> Scores:
    """L1 norm of the weights that `magnitude` takes (Torch-Pruning's importance with p = 1, without its scaling)."""
    return _weight_sums(encoder, torch.abs)


@torch.no_grad()
def _weight_sums(encoder: Encoder, function: Callable[[Any], torch.Tensor]) -> Scores:
    """The sum of an elementwise function over the weights that would leave with each structure."""
    size = encoder.model.config.attention_head_size
    heads, neurons = [], []
    for layer in encoder.model.encoder.layer:
        total = torch.zeros(0)
        if layer.attention.self is not None:
            attention = layer.attention.self
            query, key, value = (
                function(linear.weight).sum(dim=1) for linear in (attention.query, attention.key, attention.value)
            )
            if attention.sources is not None:  # each head has an equal part of what it shares
                sources = torch.tensor(attention.sources, device=key.device)
                key, value = (x.unflatten(0, (-1, size))[sources].flatten() for x in (key, value))
                parts = sources.bincount()[sources].repeat_interleave(size)
                key, value = key / parts, value / parts
            rows = [query, key, value, function(layer.attention.output.dense.weight).sum(dim=0)]
            total = torch.stack(rows).sum(dim=0).unflatten(0, (-1, size)).sum(dim=1)
        heads.append(total)
        total = torch.zeros(0)
        if layer.intermediate is not None:
            total = function(layer.intermediate.dense.weight).sum(dim=1)
            if layer.intermediate.value is not None:
                total = total + function(layer.intermediate.value.weight).sum(dim=1)
            total = total + function(layer.output.dense.weight).sum(dim=0)
        neurons.append(total)
    return Scores(tuple(heads), tuple(neurons))


def random(encoder: Encoder, seed: int) -> Scores:
    """Uniform random scores; the same seed gives the same scores on every machine."""
    generator = torch.Generator().manual_seed(seed)
    sizes = encoder.model.config.layer_sizes()
    heads = tuple(torch.rand(count, generator=generator) for count, _ in sizes)
    neurons = tuple(torch.rand(count, generator=generator) for _, count in sizes)
    return Scores(heads, neurons, combine="order")
