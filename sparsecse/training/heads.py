"""Layers over the sentence vector that exist in training only and are dropped after it."""

from __future__ import annotations

import torch
from torch import nn


class MLPHead(nn.Module):
    """SimCSE's linear + tanh over the sentence vector, [batch, size] -> [batch, size]."""

    def __init__(self, size: int):
        super().__init__()
        self.dense = nn.Linear(size, size)
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(vectors))


class Predictor(nn.Module):
    """BYOL's predictor: from one view's vector to the momentum encoder's vector of the other, [batch, size] -> same.

    Two layers without batch normalisation, which BYOL does not need (Richemond et al. 2020) and which would tie a
    sentence's loss to the others of its batch.
    """

    def __init__(self, size: int):
        super().__init__()
        self.hidden = nn.Linear(size, size)
        self.out = nn.Linear(size, size)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.hidden(vectors)))
