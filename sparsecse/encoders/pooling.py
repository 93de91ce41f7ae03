"""From token vectors to one sentence vector: the pooling modes of sentence-transformers and SimCSE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from sparsecse.errors import InputError

POOLING_MODES = {
    "mean": "mean of the last layer's token vectors",
    "cls": "the last layer's first token (SimCSE's cls_before_pooler)",
    "pooler": "the first token through the checkpoint's linear + tanh (SimCSE's cls, supervised models)",
    "first_last_avg": "mean over tokens of the average of the first and the last layer (SimCSE's avg_first_last)",
}
_ALIASES = {
    "avg": "mean",
    "cls_before_pooler": "cls",
    "cls_with_pooler": "pooler",
    "avg_first_last": "first_last_avg",
    "first-last-avg": "first_last_avg",
}


def pooling_mode(name: str, source: str = "`pooling`") -> str:
    """The canonical name of a pooling mode; an unknown one raises `InputError`."""
    mode = _ALIASES.get(name, name)
    if mode not in POOLING_MODES:
        raise InputError(f"{source}: '{name}' is not a pooling mode; choose one of {', '.join(POOLING_MODES)}.")
    return mode


def first_last_weights(num_layers: int) -> torch.Tensor:
    """The weight of each layer in the first-last average, [num_layers]."""
    weights = torch.zeros(num_layers)
    weights[0] += 0.5
    weights[-1] += 0.5
    return weights


def pool(outputs: Any, attention_mask: torch.Tensor, mode: str) -> torch.Tensor:
    """Pool a model's outputs.

    Args:
        outputs: what `SparseCSEModel` returns; `hidden_states` are needed for first_last_avg.
        attention_mask: [batch, length], 1 for real tokens.
        mode: a key of `POOLING_MODES`.

    Returns:
        [batch, hidden_size].
    """
    if mode == "cls":
        return outputs.last_hidden_state[:, 0]
    if mode == "pooler":
        return outputs.pooler_output
    tokens = outputs.last_hidden_state
    if mode == "first_last_avg":
        tokens = (outputs.hidden_states[1] + tokens) / 2
    weights = attention_mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)


def pool_packed(
    outputs: Any, cu_lengths: torch.Tensor, mode: str, pooler: Callable[[torch.Tensor], torch.Tensor] | None
) -> torch.Tensor:
    """Pool a model's outputs for packed tokens.

    Args:
        outputs: what `SparseCSEModel` returns for packed input; `hidden_states` are needed for first_last_avg.
        cu_lengths: [sentences + 1], where each sentence begins, and the total.
        mode: a key of `POOLING_MODES`.
        pooler: the model's, needed by the mode of that name.

    Returns:
        [sentences, hidden_size].
    """
    tokens = outputs.last_hidden_state
    if mode == "cls":
        return tokens[cu_lengths[:-1]]
    if mode == "pooler":
        assert pooler is not None
        return pooler(tokens[cu_lengths[:-1]])
    if mode == "first_last_avg":
        tokens = (outputs.hidden_states[1] + tokens) / 2
    return segment_reduce(tokens, cu_lengths, "mean")


def segment_reduce(tokens: torch.Tensor, cu_lengths: torch.Tensor, mode: str) -> torch.Tensor:
    """Sum or mean ("sum", "mean") of each sentence's rows: [total_tokens, d] -> [sentences, d].

    Deterministic, accumulates bfloat16 in float32, and gives 0 for a sentence without tokens.
    """
    rows = torch.arange(len(tokens), device=tokens.device)
    return F.embedding_bag(rows, tokens, cu_lengths, mode=mode, include_last_offset=True)
