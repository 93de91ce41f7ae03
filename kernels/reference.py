"""The kernels of this package in plain PyTorch: what runs where no native kernel does, and what the tests compare with.

Every function here works block by block, so that nothing of size N x N is ever held.
"""

import torch
from torch import Tensor

BLOCK = 1024

# exp(-60) is 1e-26: sums of weights no smaller than that keep full precision in float32 without a shift.
SAFE_EXPONENT = 60.0


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype a kernel accumulates in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def uniformity(x: Tensor, t: float = 2.0) -> Tensor:
    """Log of the mean over ordered pairs i != j of exp(-t ||x_i - x_j||^2). x: [N, d]; returns a scalar."""
    return _uniformity(x, t, with_grad=False)[0]


def uniformity_value_and_grad(x: Tensor, t: float = 2.0) -> tuple[Tensor, Tensor]:
    """The same and its gradient [N, d], each pair visited once:

    dU/dx_i = -2t / S * sum_j w_ij (x_i - x_j), with w_ij = exp(-t ||x_i - x_j||^2) and S their sum over pairs i < j.
    """
    value, grad = _uniformity(x, t, with_grad=True)
    assert grad is not None
    return value, grad


def _uniformity(x: Tensor, t: float, with_grad: bool) -> tuple[Tensor, Tensor | None]:
    n = len(x)
    # Distances do not move with the origin, and rounding is least when the origin is the mean.
    x = x.to(working_dtype(x.dtype))
    x = x - x.mean(dim=0)
    norms = x.square().sum(dim=1)
    blocks = range(0, n, BLOCK)

    def distances(i: int, j: int) -> Tensor:
        rows, columns = slice(i, i + BLOCK), slice(j, j + BLOCK)
        squared = torch.addmm(norms[rows, None] + norms[None, columns], x[rows], x[columns].T, alpha=-2.0)
        squared.clamp_(min=0.0)
        if i == j:
            squared.fill_diagonal_(torch.inf)
        return squared

    # Far apart, every weight may underflow; dividing all of them by the largest is then worth a second pass.
    shift = x.new_zeros(())
    if not 4.0 * t * norms.max() <= SAFE_EXPONENT:
        shift = t * torch.stack([distances(i, j).min() for i in blocks for j in blocks if j >= i]).min()

    total = torch.zeros((), dtype=torch.float64, device=x.device)
    row_sums = torch.zeros_like(norms)
    grad = torch.zeros_like(x) if with_grad else None
    for i in blocks:
        for j in blocks:
            if j < i:
                continue
            weights = distances(i, j).mul_(-t).add_(shift).exp_()
            pair_sum = weights.sum(dim=1).double().sum()
            total += pair_sum / 2 if i == j else pair_sum
            if grad is not None:
                row_sums[i : i + BLOCK] += weights.sum(dim=1)
                grad[i : i + BLOCK].addmm_(weights, x[j : j + BLOCK], alpha=-1.0)
                if i != j:
                    row_sums[j : j + BLOCK] += weights.sum(dim=0)
                    grad[j : j + BLOCK].addmm_(weights.T, x[i : i + BLOCK], alpha=-1.0)
    value = (2.0 * total / (n * (n - 1))).log() - shift
    if grad is not None:
        grad.addcmul_(x, row_sums[:, None]).mul_(-2.0 * t / total)
    return value.to(x.dtype), grad


def row_logsumexp(a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    """logsumexp over j of scale * a_i . b_j. a: [N, d], b: [M, d]; returns [N]."""
    dtype = working_dtype(a.dtype)
    result = torch.empty(len(a), dtype=dtype, device=a.device)
    columns = b.to(dtype)
    for i in range(0, len(a), BLOCK):
        rows = a[i : i + BLOCK].to(dtype)
        parts = [torch.logsumexp(rows @ columns[j : j + BLOCK].T * scale, dim=1) for j in range(0, len(b), BLOCK)]
        result[i : i + BLOCK] = torch.logsumexp(torch.stack(parts), dim=0)
    return result


def row_logsumexp_grad(a: Tensor, b: Tensor, lse: Tensor, upstream: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Gradients of `row_logsumexp` for a and b.

    lse: [N], its result; upstream: [N], the gradient with respect to that result. Returns [N, d] and [M, d].
    """
    dtype = working_dtype(a.dtype)
    a, b = a.to(dtype), b.to(dtype)
    grad_a, grad_b = torch.zeros_like(a), torch.zeros_like(b)
    for i in range(0, len(a), BLOCK):
        rows = slice(i, i + BLOCK)
        for j in range(0, len(b), BLOCK):
            columns = slice(j, j + BLOCK)
            weights = (a[rows] @ b[columns].T).mul_(scale).sub_(lse[rows, None]).exp_()
            weights.mul_((scale * upstream[rows]).to(dtype)[:, None])
            grad_a[rows].addmm_(weights, b[columns])
            grad_b[columns].addmm_(weights.T, a[rows])
    return grad_a, grad_b
