"""Multi-head attention inside packed sentences of different lengths, without padding.

The differentiable operator is `sparsecse::attention_forward`, with `sparsecse::attention_backward` behind it.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sparsecse.errors import InputError
from sparsecse.kernels.dispatch import implementation
from sparsecse.kernels.reference import AttentionInputs, Gradients, working_dtype


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_lengths: Tensor,
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    dropout: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """gate * softmax(scale * query key^T + bias) value for every head, tokens seeing their own sentence only.

    Differentiable once in query, key, value, bias and gate. NaN in a sentence stays in that sentence.

    Args:
        query, key, value: [total_tokens, heads, head_size], of one floating-point dtype and device. Slices of one fused
            projection are fine as they are.
        cu_lengths: [sentences + 1], int64: where each sentence begins, from 0, and the total last.
        scale: of the dot products; None for head_size ** -0.5.
        bias: None or [heads, 2 * reach - 1], for no sentence longer than reach: column reach - 1 + key - query is added
            to the scaled product of these positions (MPNet's relative bias).
        gate: None or [sentences, heads], multiplied to each sentence's result of each head. Its gradient comes from the
            same backward pass, and is right where the gate is 0 too.
        dropout: probability with which a softmax probability is dropped; those that stay are divided by 1 - dropout.
        seed: decides, with sentence, head, query and key, which are dropped: the same ones on every device.

    Returns:
        [total_tokens, heads, head_size] in the dtype of query, accumulated in float32 (float64 for float64).

    Raises:
        InputError: for other shapes, dtypes or probabilities.
    """
    _check(query, key, value, cu_lengths, bias, gate, dropout)
    if scale is None:
        scale = query.shape[2] ** -0.5
    if bias is not None:
        bias = bias.to(working_dtype(query.dtype))
    if gate is not None:
        gate = gate.to(working_dtype(query.dtype))
    return torch.ops.sparsecse.attention_forward(
        query, key, value, cu_lengths, bias, gate, float(scale), float(dropout), seed
    )[0]


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_lengths: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    dropout: float,
) -> None:
    shapes = [list(x.shape) for x in (query, key, value)]
    if query.ndim != 3 or query.shape[2] == 0 or shapes[1] != shapes[0] or shapes[2] != shapes[0]:
        raise InputError(
            "attention needs query, key and value of one shape [tokens, heads, head size], "
            f"but got {shapes[0]}, {shapes[1]} and {shapes[2]}."
        )
    if not query.is_floating_point() or not query.dtype == key.dtype == value.dtype:
        raise InputError(
            "attention needs query, key and value of one floating-point dtype, "
            f"but got {query.dtype}, {key.dtype} and {value.dtype}."
        )
    if cu_lengths.ndim != 1 or len(cu_lengths) == 0 or cu_lengths.dtype != torch.int64:
        raise InputError(
            "attention needs cu_lengths as int64 [sentences + 1], "
            f"but got {cu_lengths.dtype} of shape {list(cu_lengths.shape)}."
        )
    if bias is not None and (bias.ndim != 2 or bias.shape[0] != query.shape[1] or bias.shape[1] % 2 == 0):
        raise InputError(
            f"attention needs bias as [{query.shape[1]} heads, 2 * reach - 1], but got shape {list(bias.shape)}."
        )
    if gate is not None and gate.shape != (len(cu_lengths) - 1, query.shape[1]):
        raise InputError(
            f"attention needs gate as [{len(cu_lengths) - 1} sentences, {query.shape[1]} heads], "
            f"but got shape {list(gate.shape)}."
        )
    devices = {x.device for x in (query, key, value, cu_lengths, bias, gate) if x is not None}
    if len(devices) > 1:
        raise InputError(f"attention needs its tensors on one device, but got {sorted(map(str, devices))}.")
    if not 0 <= dropout < 1:
        raise InputError(f"attention needs 0 <= dropout < 1, but got {dropout}.")


def _check_lengths(cu_lengths: Tensor, total: int, bias: Tensor | None) -> None:
    """Inside the operator: a traced program cannot look at values. On a GPU every layer would wait for a look."""
    if cu_lengths.device.type != "cpu":
        return
    starts = cu_lengths.tolist()
    longest = 0
    for start, end in pairwise(starts):
        if end < start:
            raise InputError(f"cu_lengths must not fall, but {start} is followed by {end}.")
        longest = max(longest, end - start)
    if starts[0] != 0 or starts[-1] != total:
        raise InputError(
            f"cu_lengths must go from 0 to the number of tokens, {total}, but goes from {starts[0]} to {starts[-1]}."
        )
    if bias is not None and bias.shape[1] < 2 * longest - 1:
        raise InputError(
            f"a sentence of {longest} tokens needs bias with {2 * longest - 1} columns or more, "
            f"but it has {bias.shape[1]}."
        )


# Both operators begin with the fields of `AttentionInputs`.
_INPUTS = (
    "Tensor query, Tensor key, Tensor value, Tensor cu_lengths, Tensor? bias, Tensor? gate, "
    "float scale, float dropout, SymInt seed"
)


@torch.library.custom_op("sparsecse::attention_forward", mutates_args=(), schema=f"({_INPUTS}) -> (Tensor, Tensor)")
def _forward(*inputs: Any) -> tuple[Tensor, Tensor]:
    """The result, and lse [total_tokens, heads]: log of each softmax's denominator."""
    x = AttentionInputs(*inputs)
    _check_lengths(x.cu_lengths, len(x.query), x.bias)
    return implementation(x.query).attention_forward(x)


@_forward.register_fake
def _(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[:2], dtype=working_dtype(query.dtype))


@torch.library.custom_op(
    "sparsecse::attention_backward",
    mutates_args=(),
    schema=f"({_INPUTS}, Tensor out, Tensor lse, Tensor upstream) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward_op(*arguments: Any) -> Gradients:
    *inputs, out, lse, upstream = arguments
    x = AttentionInputs(*inputs)
    return implementation(x.query).attention_backward(x, out, lse, upstream)


@_backward_op.register_fake
def _(*arguments: Any) -> Gradients:
    *inputs, _, lse, _ = arguments
    return AttentionInputs(*inputs).new_gradients(lse)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, cu_lengths, bias, gate, *ctx.settings = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(query, key, value, cu_lengths, bias, gate, *output)


def _backward(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    query, key, value, cu_lengths, bias, gate, out, lse = ctx.saved_tensors
    *grads, grad_bias, grad_gate = torch.ops.sparsecse.attention_backward(
        query, key, value, cu_lengths, bias, gate, *ctx.settings, out, lse, upstream
    )
    extras = (None if bias is None else grad_bias, None if gate is None else grad_gate)
    return *grads, None, *extras, None, None, None


torch.library.register_autograd("sparsecse::attention_forward", _backward, setup_context=_save)
