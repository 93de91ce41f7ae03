"""The precision that forward passes of training are computed in."""

from __future__ import annotations

import torch

from sparsecse.kernels.dispatch import fast_bfloat16


def computes_bfloat16(precision: str, device: torch.device) -> bool:
    """What `TrainingSettings.precision` comes to on a device."""
    if precision == "auto":
        return fast_bfloat16() if device.type == "cpu" else torch.cuda.is_bf16_supported()
    return precision == "bfloat16"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context of a forward pass; the weights stay float32. See `TrainingSettings.precision`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(precision, device))
