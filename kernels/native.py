"""The functions of `reference`, computed by the compiled extension on CPU tensors."""

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsecse.forking import is_survivor
from sparsecse.kernels.dispatch import cpu_level, native_extension
from sparsecse.kernels.reference import AttentionInputs, Gradients
from sparsecse.processors import default_threads

# The extension works in whole blocks: it wants gradients padded to multiples of this in both dimensions.
PADDING = 32


def uniformity(x: Tensor, t: float = 2.0) -> Tensor:
    value = _extension().uniformity(_operand(x), t, None, _threads(), cpu_level())
    return torch.tensor(value, dtype=torch.float32)


def uniformity_value_and_grad(x: Tensor, t: float = 2.0) -> tuple[Tensor, Tensor]:
    grad = _padded_like(x)
    value = _extension().uniformity(_operand(x), t, grad, _threads(), cpu_level())
    return torch.tensor(value, dtype=torch.float32), _unpadded(grad, x)


def row_logsumexp(a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    lse = torch.empty(len(a))
    _extension().row_logsumexp(_operand(a), _operand(b), scale, lse, _threads(), cpu_level())
    return lse


def row_logsumexp_grad(a: Tensor, b: Tensor, lse: Tensor, upstream: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    grad_a, grad_b = _padded_like(a), _padded_like(b)
    _extension().row_logsumexp_grad(
        _operand(a),
        _operand(b),
        scale,
        lse.detach().contiguous(),
        upstream.detach().float().contiguous(),
        grad_a,
        grad_b,
        _threads(),
        cpu_level(),
    )
    return _unpadded(grad_a, a), _unpadded(grad_b, b)


def attention_forward(x: AttentionInputs) -> tuple[Tensor, Tensor]:
    operands = _attention_operands(x)
    out, lse = torch.empty(x.query.shape, dtype=operands[0].dtype), torch.empty(x.query.shape[:2])
    if out.numel():
        _extension().attention_forward(*operands, out, lse, _threads(), cpu_level())
    out = out.to(x.query.dtype)
    return out if x.gate is None else (out * _of_tokens(x.gate, x.cu_lengths)).to(x.query.dtype), lse


def attention_backward(x: AttentionInputs, out: Tensor, lse: Tensor, upstream: Tensor) -> Gradients:
    grad_gate = torch.empty(0)
    if x.gate is not None:
        # The result without the gate, which a gate of 0 has left nothing of.
        out, _ = attention_forward(x._replace(gate=None))
        inner = (upstream.float() * out.float()).sum(dim=-1)
        tokens = torch.arange(len(inner))
        grad_gate = F.embedding_bag(tokens, inner, x.cu_lengths, mode="sum", include_last_offset=True)
        upstream = (upstream * _of_tokens(x.gate, x.cu_lengths)).to(x.query.dtype)
    operands = _attention_operands(x)
    grads = [torch.empty(x.query.shape, dtype=operands[0].dtype) for _ in range(3)]
    grad_bias = None if x.bias is None else torch.zeros(x.bias.shape)
    if out.numel():
        results = _operand(out), lse.detach().contiguous(), _operand(upstream)
        _extension().attention_backward(*operands, *results, *grads, grad_bias, _threads(), cpu_level())
    query, key, value = (grad.to(x.query.dtype) for grad in grads)
    return Gradients(query, key, value, torch.empty(0) if grad_bias is None else grad_bias, grad_gate)


def _of_tokens(gate: Tensor, cu_lengths: Tensor) -> Tensor:
    """[sentences, heads] -> [total, heads, 1]."""
    return gate.repeat_interleave(cu_lengths.diff(), dim=0).unsqueeze(-1)


def _attention_operands(x: AttentionInputs) -> tuple[Any, ...]:
    """What both of the extension's functions begin with: all but the gate, in its order.

    query, key and value come heads side by side, tokens the same distance apart in all.
    """
    operands = [y.detach().float() if y.dtype == torch.float16 else y.detach() for y in x[:3]]
    stride = x.query.stride()
    if stride[1:] != (x.query.shape[2], 1) or any(y.stride() != stride for y in operands):
        operands = [y.contiguous() for y in operands]
    bias = None if x.bias is None else x.bias.detach().float().contiguous()
    return *operands, x.cu_lengths.contiguous(), bias, x.scale, x.dropout, x.seed % 2**64


def _threads() -> int:
    """One where a fork has left this thread without its team; see `forking`."""
    return 1 if is_survivor() else default_threads(torch.get_num_threads())


def _extension() -> ModuleType:
    extension = native_extension()
    assert extension is not None
    return extension


def _operand(x: Tensor) -> Tensor:
    """x as the extension takes it: contiguous float32 or bfloat16, outside autograd."""
    x = x.detach()
    return (x.float() if x.dtype == torch.float16 else x).contiguous()


def _padded_like(x: Tensor) -> Tensor:
    return torch.empty([-(-size // PADDING) * PADDING for size in x.shape])


def _unpadded(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient without its padding: a view where only rows were added, so that nothing large is copied."""
    return grad[: x.shape[0], : x.shape[1]].contiguous()
