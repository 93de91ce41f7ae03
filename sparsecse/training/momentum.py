"""The momentum encoder of MoCo and BYOL, and MoCo's queue of its keys: training state that a checkpoint holds."""

from __future__ import annotations

import copy

import torch
from torch import nn

from sparsecse.encoders import Encoder


class MomentumNetwork(nn.Module):
    """An exponential moving average of the encoder and of its training head (He et al. 2020, eq. 2).

    Takes no gradient. It has the encoder's dropout, so that a sentence's key is another view of it.

    Args:
        encoder, head: what is averaged; the average begins as a copy of them.
        momentum: what the average keeps of itself at an update.
    """

    def __init__(self, encoder: Encoder, head: nn.Module, momentum: float):
        super().__init__()
        self.encoder = encoder.copy()
        self.head = copy.deepcopy(head)
        self.momentum = momentum
        self.requires_grad_(False)

    @torch.no_grad()
    def update(self, encoder: Encoder, head: nn.Module) -> None:
        """Move towards the weights as they are: average = momentum * average + (1 - momentum) * weights."""
        averages = [*self.encoder.parameters(), *self.head.parameters()]
        weights = [*encoder.parameters(), *head.parameters()]
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, 1 - self.momentum)


class KeyQueue(nn.Module):
    """The last `size` keys, newest first; empty at the start.

    Args:
        size: keys that are held.
        width: d of the keys [batch, d].
    """

    held: torch.Tensor
    count: torch.Tensor

    def __init__(self, size: int, width: int):
        super().__init__()
        # Buffers of one shape from the start, so that a checkpoint's can be loaded into them.
        self.register_buffer("held", torch.zeros(size, width))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def keys(self) -> torch.Tensor:
        """The keys held, [at most size, d]; a later `push` leaves them as they are."""
        return self.held[: int(self.count)]

    @torch.no_grad()
    def push(self, keys: torch.Tensor) -> None:
        """Put keys [batch, d] in; the oldest leave."""
        size = len(self.held)
        # A new tensor: the backward pass of the step still reads the old one.
        self.held = torch.cat([keys, self.held])[:size]
        self.count = (self.count + len(keys)).clamp(max=size)
