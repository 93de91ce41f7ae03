"""From token vectors to one sentence vector: the pooling modes of sentence-transformers and SimCSE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from sparsecse.errors import InputError, meant

POOLING_MODES = {
    "mean": "mean of the last layer's token vectors",
    "cls": "the last layer's first token (SimCSE's cls_before_pooler)",
    "pooler": "the first token through the checkpoint's linear + tanh (SimCSE's cls, supervised models)",
    "first_last_avg": "mean over tokens of the average of the first and the last layer (SimCSE's avg_first_last)",
    "max": "the largest value of each dimension over the tokens",
    "mean_sqrt_len_tokens": "sum of the token vectors over the square root of their number",
    "weightedmean": "mean weighted by position: 1 for the first token, 2 for the second and so on",
    "lasttoken": "the last layer's last token",
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
        near = meant(name, [*POOLING_MODES, *_ALIASES])
        raise InputError(f"{source}: '{name}' is not a pooling mode; choose one of {', '.join(POOLING_MODES)}.{near}")
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
    mask = attention_mask.unsqueeze(-1)
    if mode == "max":
        return tokens.masked_fill(mask == 0, -torch.inf).amax(dim=1)
    if mode == "lasttoken":
        last = (mask * torch.arange(mask.shape[1], device=mask.device)[:, None]).argmax(dim=1, keepdim=True)
        return tokens.gather(1, last.expand(-1, 1, tokens.shape[-1])).squeeze(1)
    if mode == "first_last_avg":
        tokens = (outputs.hidden_states[1] + tokens) / 2
    if mode == "weightedmean":
        mask = mask.cumsum(dim=1) * mask
    weights = mask.to(_wide(tokens.dtype) if mode == "weightedmean" else tokens.dtype)
    count = weights.sum(dim=1).clamp(min=1e-9)
    vectors = (tokens * weights).sum(dim=1) / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)
    return vectors.to(tokens.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """float32 for what is shorter: positions above 256 are no bfloat16 numbers."""
    return torch.promote_types(dtype, torch.float32)


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
    if mode == "pooler":
        assert pooler is not None
        return pooler(pool_tokens(tokens, cu_lengths, "cls"))
    if mode == "first_last_avg":
        return pool_tokens((outputs.hidden_states[1] + tokens) / 2, cu_lengths, "mean")
    return pool_tokens(tokens, cu_lengths, mode)


def pool_tokens(tokens: torch.Tensor, cu_lengths: torch.Tensor, mode: str) -> torch.Tensor:
    """Pool the last layer's packed token vectors, [total_tokens, d] -> [sentences, d].

    mode: a key of `POOLING_MODES` that needs nothing else: neither pooler nor first_last_avg.
    """
    if mode == "cls":
        return tokens[cu_lengths[:-1]]
    if mode == "lasttoken":
        return tokens[cu_lengths[1:] - 1]
    if mode == "max":
        return segment_reduce(tokens, cu_lengths, "max")
    lengths = cu_lengths.diff().unsqueeze(-1).to(_wide(tokens.dtype))
    if mode == "weightedmean":
        rows = torch.arange(len(tokens), device=tokens.device)
        starts = cu_lengths[torch.searchsorted(cu_lengths, rows, right=True) - 1]
        sums = segment_reduce(tokens * (rows - starts + 1).unsqueeze(-1).to(lengths.dtype), cu_lengths, "sum")
        return (sums / (lengths * (lengths + 1) / 2).clamp(min=1)).to(tokens.dtype)
    means = segment_reduce(tokens, cu_lengths, "mean")
    return (means * lengths.sqrt()).to(tokens.dtype) if mode == "mean_sqrt_len_tokens" else means


def segment_reduce(tokens: torch.Tensor, cu_lengths: torch.Tensor, mode: str) -> torch.Tensor:
    """Sum, mean or largest values ("sum", "mean", "max") of each sentence's rows: [total_tokens, d] -> [sentences, d].

    Deterministic, accumulates bfloat16 in float32, and gives 0 for a sentence without tokens.
    """
    rows = torch.arange(len(tokens), device=tokens.device)
    return F.embedding_bag(rows, tokens, cu_lengths, mode=mode, include_last_offset=True)
