"""Scores that look at no data: the norm of a structure's weights, and chance."""

from __future__ import annotations

import torch

from sparsecse.encoders import Encoder
from sparsecse.scoring.scores import Scores


@torch.no_grad()
def magnitude(encoder: Encoder) -> Scores:
    """L2 norm of the weights that would leave with a head (query, key, value, output) or a neuron (in, out)."""
    size = encoder.model.config.attention_head_size
    heads, neurons = [], []
    for layer in encoder.model.encoder.layer:
        squares = torch.zeros(0)
        if layer.attention.self is not None:
            attention = layer.attention.self
            rows = [linear.weight.square().sum(dim=1) for linear in (attention.query, attention.key, attention.value)]
            rows.append(layer.attention.output.dense.weight.square().sum(dim=0))
            squares = torch.stack(rows).sum(dim=0).unflatten(0, (-1, size)).sum(dim=1)
        heads.append(squares.sqrt())
        squares = torch.zeros(0)
        if layer.intermediate is not None:
            squares = layer.intermediate.dense.weight.square().sum(dim=1)
            squares = squares + layer.output.dense.weight.square().sum(dim=0)
        neurons.append(squares.sqrt())
    return Scores(tuple(heads), tuple(neurons))


def random(encoder: Encoder, seed: int) -> Scores:
    """Uniform random scores; the same seed gives the same scores on every machine."""
    generator = torch.Generator().manual_seed(seed)
    sizes = encoder.model.config.layer_sizes()
    heads = tuple(torch.rand(count, generator=generator) for count, _ in sizes)
    return Scores(heads, tuple(torch.rand(count, generator=generator) for _, count in sizes))
