"""The precision that an encoder is scored in."""

from __future__ import annotations

import torch

from sparsecse.encoders import Encoder
from sparsecse.kernels.dispatch import fast_bfloat16
from sparsecse.scoring.settings import check_precision


def resolved_precision(encoder: Encoder, precision: str = "auto") -> str:
    """What an encoder is scored in, "float32" (its own precision, whatever that is) or "bfloat16".

    auto is bfloat16 for a float32 encoder on a CPU that multiplies it well faster (AMX, for one).
    Weights and activations are bfloat16 then; sums inside operators, the objective and the totals are not. On
    all-MiniLM-L6-v2 and STS-B dev the ranks of heads and of neurons correlate with float32's by more than 0.9998.
    """
    check_precision(precision)
    if precision != "auto":
        return precision
    could = encoder.model.dtype == torch.float32 and encoder.device.type == "cpu"
    return "bfloat16" if could and fast_bfloat16() else "float32"
