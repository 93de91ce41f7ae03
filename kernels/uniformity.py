"""Uniformity (Wang & Isola 2020) over all pairs of a set, as the differentiable operator `sparsecse::uniformity`.

U(x) = log mean over i != j of exp(-t ||x_i - x_j||^2)
"""

from typing import Any

import torch
from torch import Tensor

from sparsecse.errors import InputError
from sparsecse.kernels.dispatch import implementation
from sparsecse.kernels.reference import working_dtype


def uniformity(x: Tensor, t: float = 2.0) -> Tensor:
    """Log of the mean over ordered pairs i != j of exp(-t ||x_i - x_j||^2), differentiable once.

    x: [N, d] in float32, bfloat16, float16 or float64, N >= 2, of any norm; t > 0. Returns a scalar, in float64 for
    float64 input and float32 else. Memory beyond x and its gradient does not grow with N x N. NaN in gives NaN out.
    Far from unit norm the weights carry the rounding of t ||x||^2 (about the mean of x) in float32.
    Raises InputError for another shape, dtype or t. Source: Wang & Isola 2020 (arXiv 2005.10242), equation 2.
    """
    _check(x, t)
    if x.requires_grad and torch.is_grad_enabled():
        # One pass gives both; the gradient is kept for backward instead of a second visit to every pair.
        return uniformity_value_and_grad(x, t)[0]
    return torch.ops.sparsecse.uniformity(x, float(t))


def uniformity_value_and_grad(x: Tensor, t: float = 2.0) -> tuple[Tensor, Tensor]:
    """`uniformity(x, t)` and its gradient [N, d] with respect to x, in one pass, both in the dtype of the value.

    The value is differentiable, the gradient is not.
    """
    _check(x, t)
    return torch.ops.sparsecse.uniformity_value_and_grad(x, float(t))


def _check(x: Tensor, t: float) -> None:
    if x.ndim != 2 or x.shape[0] < 2 or x.shape[1] < 1:
        raise InputError(f"uniformity needs at least two vectors as [N, d], but got shape {list(x.shape)}.")
    if not x.is_floating_point():
        raise InputError(f"uniformity needs floating-point vectors, but got {x.dtype}.")
    if not t > 0:
        raise InputError(f"uniformity needs t > 0, but got {t}.")


@torch.library.custom_op("sparsecse::uniformity", mutates_args=())
def _uniformity(x: Tensor, t: float) -> Tensor:
    return implementation(x, len(x) ** 2).uniformity(x, t)


@_uniformity.register_fake
def _(x: Tensor, t: float) -> Tensor:
    return x.new_empty((), dtype=working_dtype(x.dtype))


@torch.library.custom_op("sparsecse::uniformity_value_and_grad", mutates_args=())
def _uniformity_value_and_grad(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    return implementation(x, len(x) ** 2).uniformity_value_and_grad(x, t)


@_uniformity_value_and_grad.register_fake
def _(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    dtype = working_dtype(x.dtype)
    return x.new_empty((), dtype=dtype), x.new_empty(x.shape, dtype=dtype)


def _save_input(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
    x, ctx.t = inputs
    ctx.save_for_backward(x)


def _backward_from_input(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
    (x,) = ctx.saved_tensors
    grad = torch.ops.sparsecse.uniformity_value_and_grad(x.detach(), ctx.t)[1]
    return (upstream * grad).to(x.dtype), None


def _save_gradient(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    ctx.dtype = inputs[0].dtype
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _backward_from_gradient(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor, None]:
    (grad,) = ctx.saved_tensors
    return (upstream * grad).to(ctx.dtype), None


torch.library.register_autograd("sparsecse::uniformity", _backward_from_input, setup_context=_save_input)
torch.library.register_autograd(
    "sparsecse::uniformity_value_and_grad", _backward_from_gradient, setup_context=_save_gradient
)
