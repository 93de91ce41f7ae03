"""How much of the forward passes can be kept for their backward passes."""

from __future__ import annotations

from pathlib import Path

import torch

from sparsecse.encoders import SparseCSEModel

# Of the memory that is free: others need some, and so do the operators.
SHARE = 0.25


def bytes_per_token(model: SparseCSEModel) -> int:
    """What autograd keeps of a gated forward pass for each token, where weights need no gradient.

    In a layer: query, key, value and context, what the non-linearity takes and gives, and what both LayerNorms take; in
    training mode also the masks of the dropout before both.
    """
    config = model.config
    masks = 2 if model.training else 0
    numbers = sum(
        4 * heads * config.attention_head_size + 2 * neurons + (2 + masks) * config.hidden_size
        for heads, neurons in config.layer_sizes()
    )
    return numbers * model.dtype.itemsize


def room(device: torch.device) -> int:
    """The bytes that may be kept on a device: a quarter of what is free; 0 where the system does not tell."""
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    free = [_available(), _left_in_container()] if device.type == "cpu" else []
    return int(SHARE * min((amount for amount in free if amount is not None), default=0))


def _available() -> int | None:
    """Bytes of memory that Linux could give to this process."""
    text = _read("/proc/meminfo").partition("MemAvailable:")[2].split()
    return int(text[0]) * 1024 if text else None


def _left_in_container() -> int | None:
    """Bytes that a container's limit leaves (control groups, version 2 and 1)."""
    group = Path("/sys/fs/cgroup")
    for limit, used in (
        (group / "memory.max", group / "memory.current"),
        (group / "memory" / "memory.limit_in_bytes", group / "memory" / "memory.usage_in_bytes"),
    ):
        numbers = [_read(path).strip() for path in (limit, used)]
        if all(number.isdigit() for number in numbers):
            return max(0, int(numbers[0]) - int(numbers[1]))
    return None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
