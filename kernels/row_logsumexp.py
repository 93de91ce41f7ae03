"""Row-wise log-sum-exp of scaled dot products, the denominator of InfoNCE, as `sparsecse::row_logsumexp`."""

from typing import Any

import torch
from torch import Tensor

from sparsecse.errors import InputError
from sparsecse.kernels.dispatch import implementation
from sparsecse.kernels.reference import working_dtype


def row_logsumexp(a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    """logsumexp over j of scale * a_i . b_j, differentiable once in a and b, without the N x M matrix.

    a: [N, d], b: [M, d], of one dtype and device, M >= 1; scale: a finite number (1 / temperature). Returns [N], in
    float64 for float64 input and float32 else. Raises InputError for other shapes or dtypes.
    InfoNCE over a batch of pairs (SimCSE, equation 1) is `(row_logsumexp(a, b, s) - s * (a * b).sum(1)).mean()`; b may
    hold more rows: hard negatives, or those gathered from other devices. A hard negative h_i that weighs w > 1 for its
    own a_i alone adds the rest to the result: `torch.logaddexp(lse, s * (a * h).sum(1) + math.log(w - 1))`.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or 0 in a.shape or 0 in b.shape:
        raise InputError(
            f"row_logsumexp needs a as [N, d] and b as [M, d], not empty, but got {list(a.shape)} and {list(b.shape)}."
        )
    if a.dtype != b.dtype or a.device != b.device or not a.is_floating_point():
        raise InputError(
            "row_logsumexp needs two floating-point tensors of one dtype on one device, "
            f"but got {a.dtype} on {a.device} and {b.dtype} on {b.device}."
        )
    return torch.ops.sparsecse.row_logsumexp(a, b, float(scale))


@torch.library.custom_op("sparsecse::row_logsumexp", mutates_args=())
def _row_logsumexp(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return implementation(a, len(a) * len(b)).row_logsumexp(a, b, scale)


@_row_logsumexp.register_fake
def _(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return a.new_empty((a.shape[0],), dtype=working_dtype(a.dtype))


@torch.library.custom_op("sparsecse::row_logsumexp_grad", mutates_args=())
def _row_logsumexp_grad(a: Tensor, b: Tensor, lse: Tensor, upstream: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return implementation(a, len(a) * len(b)).row_logsumexp_grad(a, b, lse, upstream, scale)


@_row_logsumexp_grad.register_fake
def _(a: Tensor, b: Tensor, lse: Tensor, upstream: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    dtype = working_dtype(a.dtype)
    return a.new_empty(a.shape, dtype=dtype), b.new_empty(b.shape, dtype=dtype)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    a, b, ctx.scale = inputs
    ctx.save_for_backward(a, b, output)


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
    a, b, lse = ctx.saved_tensors
    grad_a, grad_b = torch.ops.sparsecse.row_logsumexp_grad(a, b, lse, upstream, ctx.scale)
    return grad_a.to(a.dtype), grad_b.to(b.dtype), None


torch.library.register_autograd("sparsecse::row_logsumexp", _backward, setup_context=_save)
