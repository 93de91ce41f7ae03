"""An encoder's dropout: what it has, another probability for a while, and masks that come again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from sparsecse.encoders import Encoder


def _holders(encoder: Encoder) -> list[tuple[Any, str]]:
    """Every object with a dropout probability, and the attribute that it has it in."""
    found: list[tuple[Any, str]] = [
        (module, "p") for module in encoder.modules() if isinstance(module, torch.nn.Dropout)
    ]
    attentions = [layer.attention.self for layer in encoder.model.encoder.layer]
    return found + [(attention, "dropout_prob") for attention in attentions if attention is not None]


def own_dropout(encoder: Encoder) -> float:
    """The highest dropout probability that an encoder has; 0 where nothing is ever dropped."""
    return max((float(getattr(module, name)) for module, name in _holders(encoder)), default=0.0)


@contextlib.contextmanager
def with_dropout(encoder: Encoder, probability: float | None) -> Iterator[None]:
    """Give every dropout of the encoder another probability inside this context; None leaves them alone."""
    holders = _holders(encoder)
    own = [getattr(module, name) for module, name in holders]
    try:
        if probability is not None:
            for module, name in holders:
                setattr(module, name, probability)
        yield
    finally:
        for (module, name), value in zip(holders, own, strict=True):
            setattr(module, name, value)


@contextlib.contextmanager
def seeded_masks(device: torch.device, seed: int, number: int) -> Iterator[None]:
    """Inside, dropout draws the masks of that seed and number; torch's own random state is as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed((seed * 1_000_003 + number) % 2**63)
        yield
