"""The kernels of this package in plain PyTorch: what runs where no native kernel does, and what the tests compare with.

Every function here works block by block, so that nothing of size N x N is ever held.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

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


# The dropout mask of attention, the same in every implementation. With all arithmetic modulo 2^32,
#   mix(x): x ^= x >> 16; x *= 0x7feb352d; x ^= x >> 15; x *= 0x846ca68b; x ^= x >> 16   (Wellons' lowbias32)
#   h = 0x9e3779b9; for word in (seed's low 32 bits, its high 32 bits, sentence, head, query, key): h = mix(h ^ word)
# and the probability of (query, key), positions counted from the sentence's first token, stays if
# h >= floor(dropout * 2^32).
MIX_FIRST, MIX_SECOND = 0x7FEB352D, 0x846CA68B
_LOW_BITS = 0xFFFFFFFF


def mask_hash(seed: int, *words: Any) -> Any:
    """h after the seed's two words and these, each an int or a Tensor of int64."""
    h: Any = 0x9E3779B9
    for word in (seed & _LOW_BITS, (seed >> 32) & _LOW_BITS, *words):
        h = h ^ word
        h = ((h ^ (h >> 16)) * MIX_FIRST) & _LOW_BITS
        h = ((h ^ (h >> 15)) * MIX_SECOND) & _LOW_BITS
        h = h ^ (h >> 16)
    return h


def dropout_mask(seed: int, sentence: Tensor, head: Tensor, query: Tensor, key: Tensor, dropout: float) -> Tensor:
    """Whether a probability stays; the four indices are int64 tensors that broadcast to the result's shape."""
    return mask_hash(seed, sentence, head, query, key) >= int(dropout * 2.0**32)


class Gradients(NamedTuple):
    """Gradients of what attention was given, each in its shape; bias and gate are empty where it was given none."""

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor
    gate: Tensor


class AttentionInputs(NamedTuple):
    """What every implementation of attention takes: the arguments of `sparsecse::attention_forward`, in its order.

    `sparsecse.kernels.attention` describes them. bias and gate are in the dtype that sums are in, and nothing is left
    to a default.
    """

    query: Tensor  # [total_tokens, heads, head_size], and so are key and value
    key: Tensor
    value: Tensor
    cu_lengths: Tensor  # [sentences + 1]
    bias: Tensor | None  # [heads, 2 * reach - 1]
    gate: Tensor | None  # [sentences, heads]
    scale: float
    dropout: float
    seed: int

    def new_gradients(self, lse: Tensor) -> Gradients:
        """Memory for the gradients: zeros for bias and gate, in the dtype of lse; the others are not initialised."""
        grads = [x.new_empty(x.shape) for x in self[:3]]
        return Gradients(*grads, *(lse.new_zeros((0,) if x is None else x.shape) for x in (self.bias, self.gate)))


@dataclass(frozen=True)
class _Group:
    """Sentences of similar length that attention treats as one padded batch.

    sentences: [B], their numbers; rows: [B, L], the tokens they consist of; real: [B, L], which of those are theirs.
    """

    sentences: Tensor
    rows: Tensor
    real: Tensor

    def gather(self, x: Tensor) -> Tensor:
        """[total, heads, ...] -> [B, heads, L, ...], zero where there is no token, in the working dtype."""
        x = x[self.rows].to(working_dtype(x.dtype))
        x = x.masked_fill(~self.real.reshape(*self.real.shape, *[1] * (x.ndim - 2)), 0.0)
        return x.transpose(1, 2)

    def scatter(self, x: Tensor, into: Tensor) -> None:
        into[self.rows[self.real]] = x.transpose(1, 2)[self.real].to(into.dtype)


def _groups(cu_lengths: Tensor, heads: int) -> Iterator[_Group]:
    starts = cu_lengths.tolist()
    lengths = [end - start for start, end in pairwise(starts)]
    order = [s for s in sorted(range(len(lengths)), key=lengths.__getitem__) if lengths[s]]
    while order:
        # Lengths within a factor of two waste little, and 2^24 logits are 64 MB.
        shortest, size = lengths[order[0]], 0
        while size < len(order) and lengths[order[size]] <= 2 * shortest:
            if size and (size + 1) * heads * lengths[order[size]] ** 2 > 2**24:
                break
            size += 1
        members, order = order[:size], order[size:]
        sentences = torch.tensor(members, device=cu_lengths.device)
        position = torch.arange(lengths[members[-1]], device=cu_lengths.device)
        first = cu_lengths[sentences, None]
        real = position < cu_lengths[sentences + 1, None] - first
        yield _Group(sentences, torch.where(real, first + position, first), real)


def _attention_blocks(
    x: AttentionInputs, q: Tensor, k: Tensor, group: _Group
) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Query rows, their logits [B, heads, rows, L], and which probabilities stay (None for all)."""
    heads, length = q.shape[1:3]
    position = torch.arange(length, device=q.device)
    for i in range(0, length, BLOCK):
        rows = slice(i, i + BLOCK)
        logits = (q[:, :, rows] @ k.mT).mul_(x.scale)
        if x.bias is not None:
            logits += x.bias[:, (x.bias.shape[1] // 2 + position) - position[rows, None]]
        logits.masked_fill_(~group.real[:, None, None], -torch.inf)
        stays = None
        if x.dropout:
            head = torch.arange(heads, device=q.device)[:, None, None]
            stays = dropout_mask(
                x.seed, group.sentences[:, None, None, None], head, position[rows, None], position, x.dropout
            )
        yield rows, logits, stays


def attention_forward(x: AttentionInputs) -> tuple[Tensor, Tensor]:
    """See `sparsecse.kernels.attention`. Returns [total, heads, head_size] and lse, [total, heads]."""
    out = x.query.new_empty(x.query.shape)
    lse = x.query.new_empty(x.query.shape[:2], dtype=working_dtype(x.query.dtype))
    for group in _groups(x.cu_lengths, x.query.shape[1]):
        q, k, v = map(group.gather, x[:3])
        out_group, lse_group = torch.empty_like(q), torch.empty_like(q[..., 0])
        for rows, logits, stays in _attention_blocks(x, q, k, group):
            lse_group[:, :, rows] = logits.logsumexp(dim=-1)
            weights = logits.sub_(lse_group[:, :, rows, None]).exp_()
            if stays is not None:
                weights = weights.masked_fill_(~stays, 0.0).div_(1.0 - x.dropout)
            out_group[:, :, rows] = weights @ v
        if x.gate is not None:
            out_group *= x.gate[group.sentences, :, None, None]
        group.scatter(out_group, out)
        group.scatter(lse_group, lse)
    return out, lse


def attention_backward(x: AttentionInputs, out: Tensor, lse: Tensor, upstream: Tensor) -> Gradients:
    """The gradients of attention from its result and lse, and the gradient with respect to that result.

    With P the probabilities, M the mask divided by 1 - dropout, G the upstream gradient times the gate:
    dV = (M P)^T G, dS = P (M (G V^T) - rowsum(G out)), dQ = scale dS K, dK = scale dS^T Q. G out is of the result
    without the gate, which a gate of 0 has left nothing of: with a gate its sums come from M P (G V^T), and without
    the gate in G they are the gate's gradient.
    """
    grads = x.new_gradients(lse)
    for group in _groups(x.cu_lengths, x.query.shape[1]):
        q, k, v = map(group.gather, x[:3])
        g, lse_group = group.gather(upstream), group.gather(lse)
        inner = (g * group.gather(out)).sum(dim=-1, keepdim=True)
        gates = None if x.gate is None else x.gate[group.sentences, :, None, None]
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for rows, logits, stays in _attention_blocks(x, q, k, group):
            p = logits.sub_(lse_group[:, :, rows, None]).exp_()
            # Padding has logits of 0 and an lse of 0, which would make probabilities of 1.
            p.masked_fill_(~group.real[:, None, rows, None], 0.0)
            grad_p = g[:, :, rows] @ v.mT
            kept = p
            if stays is not None:
                kept = p.masked_fill(~stays, 0.0).div_(1.0 - x.dropout)
                grad_p.masked_fill_(~stays, 0.0).div_(1.0 - x.dropout)
            inner_rows = inner[:, :, rows]
            if gates is not None:
                inner_rows = (p * grad_p).sum(dim=-1, keepdim=True)
                grads.gate[group.sentences] += inner_rows.sum(dim=(2, 3))
                kept, grad_p, inner_rows = kept * gates, grad_p.mul_(gates), inner_rows * gates
            grad_v += kept.mT @ g[:, :, rows]
            grad_s = grad_p.sub_(inner_rows).mul_(p)
            grad_q[:, :, rows] = (grad_s @ k).mul_(x.scale)
            grad_k += (grad_s.mT @ q[:, :, rows]).mul_(x.scale)
            if x.bias is not None:
                first = x.bias.shape[1] // 2 - (rows.start + grad_s.shape[2] - 1)
                sums = _sum_diagonals(grad_s.sum(dim=0))
                grads.bias[:, first : first + sums.shape[1]] += sums
        for grad_group, grad in zip((grad_q, grad_k, grad_v), grads[:3], strict=True):
            group.scatter(grad_group, grad)
    return grads


def _sum_diagonals(x: Tensor) -> Tensor:
    """[heads, m, n] -> [heads, m + n - 1]: column m - 1 + j - i sums the elements (i, j). Deterministic everywhere."""
    heads, m, n = x.shape
    # Rows upside down and m columns wider, read as rows one shorter than that: each moves one column to the right.
    flat = torch.nn.functional.pad(x.flip(1), (0, m)).flatten(1)
    return flat[:, :-m].reshape(heads, m, n + m - 1).sum(dim=1)
