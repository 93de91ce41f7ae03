"""transformers' `attn_implementation="sparsecse"`: stock models attend through `sparsecse.kernels.attention`.

Only attention leaves the padding out here; a stock model computes the rest of its layers on what it is given. Given
flattened sentences (`cu_seq_lens_q`, or position_ids that start again) it computes no padding at all.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel
from transformers.masking_utils import flash_attention_mask

from sparsecse.errors import InputError
from sparsecse.kernels import attention

# What other attention functions do and this one does not, by the argument that asks for it.
_UNSUPPORTED = ("sliding_window", "softcap", "s_aux", "cache", "position_bias")


def mask(*args: Any, config: Any = None, **kwargs: Any) -> torch.Tensor | None:
    """The padding mask [batch, length] as it is, or None where there is no padding."""
    model_class: Any = AutoModel._model_mapping.get(type(config), None)
    if model_class is not None and not model_class._supports_attention_backend:
        raise InputError(
            f'{model_class.__name__} computes its attention itself, so that attn_implementation="sparsecse" cannot '
            f"serve it; leave attn_implementation out, and see sparsecse.runtime.accelerate."
        )
    return flash_attention_mask(*args, **kwargs)


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers' models call it.

    Args:
        query, key, value: [batch, heads, length, head_size].
        attention_mask: [batch, length], what `mask` gives; any pattern of padding.
        dropout: its pattern follows torch's CPU generator.
        cu_seq_lens_q: where each sentence of a flattened batch of one row begins, and the total.
        position_ids: of a flattened batch of one row; sentences begin where they do not go on by one.

    Returns:
        [batch, length, heads, head_size], zeros at padding; and None for the attention's weights.

    Raises:
        InputError: causal, windowed, cross or grouped attention, or a mask that is not of padding.
    """
    _check(module, query, key, attention_mask, is_causal, kwargs)
    batch, heads, length, head_size = query.shape
    q, k, v = (x.transpose(1, 2).reshape(batch * length, heads, head_size) for x in (query, key, value))
    rows = None
    if attention_mask is not None:
        rows = attention_mask.flatten().nonzero().squeeze(1)
        q, k, v = q[rows], k[rows], v[rows]
        cu_lengths = F.pad(attention_mask.sum(dim=1).cumsum(dim=0), (1, 0))
    elif cu_seq_lens_q is not None:
        cu_lengths = cu_seq_lens_q.to(query.device, torch.int64)
    elif batch == 1 and position_ids is not None:
        begins = position_ids.reshape(-1).diff().ne(1).nonzero().squeeze(1) + 1
        cu_lengths = F.pad(F.pad(begins, (1, 0)), (0, 1), value=length)
    else:
        cu_lengths = torch.arange(batch + 1, device=query.device) * length
    seed = int(torch.randint(2**62, ())) if dropout else 0
    context = attention(q, k, v, cu_lengths, scale=scaling, dropout=dropout, seed=seed)
    if rows is not None:
        context = context.new_zeros(batch * length, heads, head_size).index_copy(0, rows, context)
    return context.view(batch, length, heads, head_size), None


def _check(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: torch.Tensor | None,
    is_causal: bool | None,
    options: dict[str, Any],
) -> None:
    wrong = [name for name in _UNSUPPORTED if options.get(name) is not None]
    if getattr(module, "is_causal", False) if is_causal is None else is_causal:
        wrong.append("causal attention")
    if query.shape != key.shape:
        wrong.append("queries and keys of different shapes")
    if attention_mask is not None and attention_mask.ndim != 2:
        wrong.append("a mask that is not [batch, length]")
    if options.get("output_attentions"):
        wrong.append("output_attentions")
    if wrong:
        raise InputError(
            f'{type(module).__name__}: attn_implementation="sparsecse" is for plain encoders and does not have '
            f'{", ".join(wrong)}; load the model with attn_implementation="sdpa" or "eager".'
        )
