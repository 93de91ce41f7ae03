"""How far each channel of the hidden states reaches, so that int8 can treat wide and narrow ones alike.

A few channels of a trained encoder are many times wider than the rest, and one scale per token would spend most of its
127 steps on them. Dividing every channel by a constant, and multiplying the weights that read it, moves that width to
the weights, where each output has a scale of its own (Xiao et al. 2023, SmoothQuant, arXiv 2211.10438).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sparsecse.datasets import load_sentences
from sparsecse.encoders import Encoder

# Of the channel's width, as a power, how much moves to the weights. Half is that paper's default; encoders whose
# weights are even gain a little more from 0.7.
MIGRATION = 0.7
CALIBRATION_SENTENCES = 64


@dataclass(frozen=True)
class LayerScales:
    """What to divide the hidden states by before the query/key/value and before the first feed-forward product.

    Each [hidden_size], or None where the layer has no such product.
    """

    qkv: torch.Tensor | None
    up: torch.Tensor | None


def calibrate(encoder: Encoder) -> list[LayerScales]:
    """Scales for every layer, from the widths that the built-in demo sentences show."""
    widths: dict[Any, torch.Tensor] = {}

    def watch(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        width = inputs[0].detach().flatten(0, -2).abs().amax(dim=0).float()
        widths[module] = torch.maximum(widths.get(module, width), width)

    readers = [_readers(layer) for layer in encoder.model.encoder.layer]
    handles = [group[0].register_forward_pre_hook(watch) for groups in readers for group in groups if group]
    try:
        encoder.encode_ids(encoder.tokenize(load_sentences("demo")[:CALIBRATION_SENTENCES]))
    finally:
        for handle in handles:
            handle.remove()
    return [LayerScales(*(_scales(group, widths) for group in groups)) for groups in readers]


def _readers(layer: Any) -> tuple[list[torch.nn.Linear], list[torch.nn.Linear]]:
    attention = layer.attention.self
    qkv = [] if attention is None else [attention.query, attention.key, attention.value]
    return qkv, [] if layer.intermediate is None else [layer.intermediate.dense]


def _scales(group: list[torch.nn.Linear], widths: dict[Any, torch.Tensor]) -> torch.Tensor | None:
    if not group:
        return None
    weights = torch.stack([linear.weight.detach().float().abs().amax(dim=0) for linear in group]).amax(dim=0)
    scales = widths[group[0]].clamp(min=1e-5) ** MIGRATION / weights.clamp(min=1e-5) ** (1 - MIGRATION)
    return scales / scales.mean()
