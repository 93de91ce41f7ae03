"""How many tokens a pass takes at once, and how much of the forward passes is kept for their backward passes."""

from __future__ import annotations

from pathlib import Path

import torch

from sparsecse.encoders import SparseCSEModel

# Of the memory that is free: others need some, and so do the operators.
SHARE = 0.25
# The most that is kept on a CPU, however much is free: a second forward pass costs a third of the time, a machine that
# swaps much more.
KEPT = 2**30
# What one pass may keep for its backward pass.
PASS = 2**29


def bytes_per_token(model: SparseCSEModel) -> int:
    """What autograd keeps of a gated forward pass for each token, where weights need no gradient.

    In a layer: query, key, value and context, query and key again where they are normalised, what the non-linearity
    takes and gives (of gated neurons the other factor and the product, too), and what the norms take; in training mode
    also the masks of the dropout before both.
    """
    return _numbers_per_token(model) * model.dtype.itemsize


def tokens_per_pass(model: SparseCSEModel) -> int:
    """The most tokens whose forward pass keeps `PASS` in float32: 1,040 for BERT-base, 4,161 for MiniLM's six layers.

    The same in every precision and on every machine, since batches decide the masks of dropout positives.
    """
    return max(1, PASS // (4 * _numbers_per_token(model)))


def _numbers_per_token(model: SparseCSEModel) -> int:
    config = model.config
    masks = 2 if model.training else 0
    norms = 4 if config.norm_outputs else 2
    head, neuron = 6 if config.query_key_norm else 4, 4 if config.gated else 2
    return sum(
        head * heads * config.attention_head_size + neuron * neurons + (norms + masks) * config.hidden_size
        for heads, neurons in config.layer_sizes()
    )


def room(device: torch.device) -> int:
    """The bytes that may be kept on a device: a quarter of what is free; 0 where the system does not tell.

    On a CPU at most `KEPT`.
    """
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    free = [_available(), _left_in_container()] if device.type == "cpu" else []
    return min(KEPT, int(SHARE * min((amount for amount in free if amount is not None), default=0)))


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
