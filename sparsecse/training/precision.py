"""The precision that forward passes of training are computed in."""

from __future__ import annotations

import torch

from sparsecse.kernels.dispatch import fast_bfloat16


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context of a forward pass; the weights stay float32. See `TrainingSettings.precision`."""
    enabled = precision == "bfloat16"
    if precision == "auto":
        enabled = fast_bfloat16() if device.type == "cpu" else torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
