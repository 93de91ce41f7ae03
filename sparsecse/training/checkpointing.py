"""Layers whose activations are computed again in the backward pass, instead of being kept for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from sparsecse.encoders import Encoder


@contextlib.contextmanager
def layers_again(encoder: Encoder, wanted: bool) -> Iterator[None]:
    """Inside, in training mode, each layer keeps its input alone (Chen et al. 2016, arXiv 1604.06174).

    Its second forward pass draws the same dropout masks. The layers are transformers' `GradientCheckpointingLayer`.
    """
    layers: list[Any] = list(encoder.model.encoder.layer) if wanted else []
    for layer in layers:
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        layer.gradient_checkpointing = True
    try:
        yield
    finally:
        for layer in layers:
            del layer.gradient_checkpointing, layer._gradient_checkpointing_func
