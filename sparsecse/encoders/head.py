"""What comes after pooling: the Dense modules of sentence-transformers, a linear layer and its activation each."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

TANH = "torch.nn.modules.activation.Tanh"
ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    TANH: nn.Tanh,
    "torch.nn.Tanh": nn.Tanh,
    "torch.nn.modules.linear.Identity": nn.Identity,
    "torch.nn.Identity": nn.Identity,
}
"""By the names that the module's file may use, the one that is written first."""


class Dense(nn.Module):
    """A linear layer and its activation.

    Args:
        weight: [out_features, in_features].
        bias: [out_features], or None.
        activation: a key of `ACTIVATIONS`.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, activation: str):
        super().__init__()
        self.linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
        self.linear.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        self.activation = ACTIVATIONS[activation]()

    @property
    def activation_name(self) -> str:
        """The first key of `ACTIVATIONS` that stands for this activation."""
        return next(name for name, kind in ACTIVATIONS.items() if type(self.activation) is kind)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.activation(self.linear(vectors))
