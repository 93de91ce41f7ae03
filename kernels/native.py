"""The functions of `reference`, computed by the compiled extension on CPU tensors."""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsecse.forking import is_survivor
from sparsecse.kernels.dispatch import cpu_level, native_extension
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


def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_lengths: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    scale: float,
    dropout: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    q, k, v = _attention_operands(query, key, value)
    out, lse = torch.empty(q.shape, dtype=q.dtype), torch.empty(q.shape[:2])
    if q.numel():
        _extension().attention_forward(
            q,
            k,
            v,
            cu_lengths.contiguous(),
            _attention_bias(bias),
            scale,
            dropout,
            seed % 2**64,
            out,
            lse,
            _threads(),
            cpu_level(),
        )
    out = out.to(query.dtype)
    return out if gate is None else (out * _of_tokens(gate, cu_lengths)).to(query.dtype), lse


def attention_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_lengths: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    scale: float,
    dropout: float,
    seed: int,
    out: Tensor,
    lse: Tensor,
    upstream: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_gate = torch.empty(0)
    if gate is not None:
        # The result without the gate, which a gate of 0 has left nothing of.
        out, _ = attention_forward(query, key, value, cu_lengths, bias, None, scale, dropout, seed)
        inner = (upstream.float() * out.float()).sum(dim=-1)
        tokens = torch.arange(len(inner))
        grad_gate = F.embedding_bag(tokens, inner, cu_lengths, mode="sum", include_last_offset=True)
        upstream = (upstream * _of_tokens(gate, cu_lengths)).to(query.dtype)
    q, k, v = _attention_operands(query, key, value)
    grads = [torch.empty(q.shape, dtype=q.dtype) for _ in range(3)]
    grad_bias = None if bias is None else torch.zeros(bias.shape)
    if q.numel():
        _extension().attention_backward(
            q,
            k,
            v,
            cu_lengths.contiguous(),
            _attention_bias(bias),
            scale,
            dropout,
            seed % 2**64,
            _operand(out),
            lse.detach().contiguous(),
            _operand(upstream),
            *grads,
            grad_bias,
            _threads(),
            cpu_level(),
        )
    grad_q, grad_k, grad_v = (grad.to(query.dtype) for grad in grads)
    return grad_q, grad_k, grad_v, torch.empty(0) if grad_bias is None else grad_bias, grad_gate


def _of_tokens(gate: Tensor, cu_lengths: Tensor) -> Tensor:
    """[sentences, heads] -> [total, heads, 1]."""
    return gate.repeat_interleave(cu_lengths.diff(), dim=0).unsqueeze(-1)


def _attention_operands(query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    """The three as the extension takes them: heads side by side, tokens the same distance apart in all."""
    operands = [x.detach().float() if x.dtype == torch.float16 else x.detach() for x in (query, key, value)]
    if all(x.stride() == query.stride() for x in operands) and query.stride()[1:] == (query.shape[2], 1):
        return operands
    return [x.contiguous() for x in operands]


def _attention_bias(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().float().contiguous()


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
