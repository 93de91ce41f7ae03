"""The hidden states of a model half layer by half layer, and the sums over tokens of what its projections take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sparsecse.encoders import Encoder, PackedBatch


class Gram:
    """Sums over tokens of the inputs [tokens, size] of a projection and of their products, in float64."""

    def __init__(self, size: int, device: torch.device):
        self.size, self.count = size, 0
        self._sum = torch.zeros(size, dtype=torch.float64, device=device)
        self._products = torch.zeros(size, size, dtype=torch.float64, device=device)

    def add(self, inputs: torch.Tensor) -> None:
        """inputs: [tokens, size]."""
        self.count += len(inputs)
        if self.size:
            self._sum += inputs.sum(dim=0)
            self._products += inputs.T @ inputs

    def mean(self, centred: bool) -> torch.Tensor:
        """[size], of the inputs; zeros where nothing is centred."""
        return float(centred) * self._sum / self.count

    def ridge(self, strength: float, centred: bool) -> torch.Tensor:
        """[size, size], the inputs' Gram matrix, about their mean if centred, plus `strength` of its mean diagonal."""
        mean = self.mean(centred)
        gram = self._products - self.count * torch.outer(mean, mean)
        gram.diagonal().add_(strength * gram.diagonal().mean())
        return gram


class Stream:
    """The hidden states of all batches of one model, taken through its layers one half after the other."""

    def __init__(self, encoder: Encoder, batches: Sequence[PackedBatch]):
        self._batches = batches
        self._layers: list[Any] = list(encoder.model.encoder.layer)
        reach = encoder.model.config.max_position_embeddings
        stack = encoder.model.encoder
        self._biases = stack.relative_biases(torch.arange(1 - reach, reach, device=encoder.device))
        self._turns = [stack.turns(batch.position_ids) for batch in batches]
        embeddings = encoder.model.embeddings
        self.states = [embeddings(batch.input_ids, position_ids=batch.position_ids) for batch in batches]

    def half(self, layer: int, attention: bool) -> tuple[Any, list[torch.Tensor]]:
        """The output block of a layer's attention or feed-forward half, and what its projection takes, per batch."""
        module = self._layers[layer]
        if attention:
            block, inner = module.attention.output, module.attention.self
            if inner is None:
                return block, self.states
            bias = self._biases[layer]
            parts = zip(self.states, self._batches, self._turns, strict=True)
            return block, [inner(states, batch.attend, bias, turns[layer]) for states, batch, turns in parts]
        block, inner = module.output, module.intermediate
        return block, self.states if inner is None else [inner(states) for states in self.states]

    def advance(self, block: Any, inputs: Sequence[torch.Tensor]) -> None:
        """Add a half's output to the residual, and apply the LayerNorm after it."""
        self.states = [block(x, states) for x, states in zip(inputs, self.states, strict=True)]
