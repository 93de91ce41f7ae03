"""Attention over packed sentences as Triton kernels: what `sparsecse.kernels.attention` is on a GPU.

A tile is a run of consecutive packed tokens, whatever sentences they belong to. Each row knows where its sentence
begins and ends; a program walks the keys from the begin of its first row's sentence to the end of its last row's and
masks the rest. So short sentences share tiles, nothing is padded, and no launch depends on the lengths: nothing here
waits for the device. The backward pass computes the probabilities again (Dao 2023, FlashAttention-2, arXiv 2307.08691)
in one kernel that owns tiles of queries and one that owns tiles of keys, so that it is deterministic.

Zero weights do not keep the NaN of one sentence out of another in the same tile, as 0 * NaN is NaN. A program that
finds NaN in its result computes it again, one sentence of the tile after the other.
"""

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsecse.kernels import reference
from sparsecse.kernels.token_maps import token_maps
from sparsecse.kernels.triton_support import (
    ConfigTable,
    LaunchConfig,
    architecture,
    choose_config,
    device_guard,
    interpreting,
)

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

# Triton 3.9's interpreter multiplies the bits of bfloat16 as integers.
WIDEN = tl.constexpr(interpreting())

# ----------------------------------------------------------------------------------------------------------- kernels


@triton.jit
def _dot(a, b, accumulator, PRECISION: tl.constexpr):
    if WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, accumulator, input_precision=PRECISION)


@triton.jit
def _load(x, first, limit, stride, ROWS: tl.constexpr, HEAD_SIZE: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows first to first + ROWS of x as [ROWS, COLUMNS], zero from row `limit` and from column HEAD_SIZE on."""
    rows = tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    # Only the scalar needs 64 bits: within a tile the offsets are small.
    pointers = x + tl.cast(first, tl.int64) * stride + rows[:, None] * stride + columns[None, :]
    real = (first + rows < limit)[:, None]
    if HEAD_SIZE < COLUMNS:
        real = real & (columns < HEAD_SIZE)[None, :]
    return tl.load(pointers, mask=real, other=0.0)


@triton.jit
def _store(x, values, first, keep, stride, ROWS: tl.constexpr, HEAD_SIZE: tl.constexpr, COLUMNS: tl.constexpr):
    """The rows of `values` marked in `keep` [ROWS] go to rows first to first + ROWS of x."""
    columns = tl.arange(0, COLUMNS)
    pointers = x + tl.cast(first, tl.int64) * stride + tl.arange(0, ROWS)[:, None] * stride + columns[None, :]
    keep = keep[:, None]
    if HEAD_SIZE < COLUMNS:
        keep = keep & (columns < HEAD_SIZE)[None, :]
    tl.store(pointers, values.to(x.dtype.element_ty), mask=keep)


@triton.jit
def _mix(x):
    """As `reference._mix`, for uint32."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _row_hash(hash_start, sentence, head, position):
    """The dropout hash up to its last word, the key; hash_start has both words of the seed in it."""
    hashed = _mix(hash_start.to(tl.uint32, bitcast=True) ^ sentence.to(tl.uint32))
    hashed = _mix(hashed ^ head.to(tl.uint32))
    return _mix(hashed ^ position.to(tl.uint32))


@triton.jit
def _any_nan(x):
    return tl.max((x != x).to(tl.int32)) > 0


@triton.jit
def _scores(
    left,  # [L, D], the queries of a tile and right its keys, or the other way round
    right,  # [R, D]
    seen,  # [L, R], whether the two tokens are of one sentence
    distance,  # [L, R], key - query
    scale,
    bias,  # pointer to this head's row, at the column of key - query = 0
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Logits times log2(e), as exp2 is what the hardware has; -inf where nothing is seen."""
    logits = _dot(left, tl.trans(right), None, PRECISION) * (scale * LOG2E)
    if HAS_BIAS:
        logits += tl.load(bias + distance, mask=seen, other=0.0) * LOG2E
    return tl.where(seen, logits, float("-inf"))


@triton.jit
def _attend(
    queries,
    k,
    v,
    stride_k,
    stride_v,
    low,  # the keys to visit: low to high
    high,
    rows,
    begin,
    end,
    hashed,
    scale,
    threshold,
    bias,
    M: tl.constexpr,
    N: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attention of one tile of queries. Returns it [M, D], not yet divided by 1 - dropout, and lse [M]."""
    largest = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    result = tl.zeros([M, D], tl.float32)
    for first in range(low, high, N):
        columns = first + tl.arange(0, N)
        seen = (columns[None, :] >= begin[:, None]) & (columns[None, :] < end[:, None])
        keys = _load(k, first, high, stride_k, N, HEAD_SIZE, D)
        distance = columns[None, :] - rows[:, None]
        logits = _scores(queries, keys, seen, distance, scale, bias, HAS_BIAS, PRECISION)
        grown = tl.maximum(largest, tl.max(logits, 1))
        # A row whose sentence has not come yet has seen nothing, and -inf - -inf would be NaN.
        shift = tl.where(grown == float("-inf"), 0.0, grown)
        weights = tl.exp2(logits - shift[:, None])
        shrink = tl.exp2(largest - shift)
        total = total * shrink + tl.sum(weights, 1)
        if DROPOUT:
            position = (columns[None, :] - begin[:, None]).to(tl.uint32)
            weights = tl.where(_mix(hashed[:, None] ^ position) >= threshold, weights, 0.0)
        values = _load(v, first, high, stride_v, N, HEAD_SIZE, D)
        result = _dot(weights.to(values.dtype), values, result * shrink[:, None], PRECISION)
        largest = grown
    total = tl.where(total == 0.0, 1.0, total)
    return result / total[:, None], (largest + tl.log2(total)) * LN2


@triton.jit(do_not_specialize=["tokens", "heads", "hash_start", "threshold"])
def forward_kernel(
    q,  # [tokens, heads, head_size], rows and heads at any stride, columns at 1; so are k and v
    k,
    v,
    bias,  # [heads, 2 * reach - 1] float32, or None
    gate,  # [sentences, heads], or None
    sentence,  # [tokens] int32, the sentence a token is of; begin and end: [tokens] int32, that sentence's tokens
    begin,
    end,
    out,  # [tokens, heads, head_size], contiguous
    lse,  # [tokens, heads] float32
    stride_q,
    head_stride_q,
    stride_k,
    head_stride_k,
    stride_v,
    head_stride_v,
    bias_columns,
    tokens,
    heads,
    scale,
    hash_start,
    threshold,
    keep_scale,  # 1 / (1 - dropout)
    HEAD_SIZE: tl.constexpr,
    D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_GATE: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
):
    # Heads of one tile run side by side: they share the rows' cache lines.
    head = tl.program_id(0) % heads
    first = tl.program_id(0) // heads * M
    rows = first + tl.arange(0, M)
    real = rows < tokens
    row_begin = tl.load(begin + rows, mask=real, other=0)
    row_end = tl.load(end + rows, mask=real, other=0)
    low = tl.load(begin + first)
    high = tl.load(end + tl.minimum(first + M, tokens) - 1)
    hashed = row_begin.to(tl.uint32)
    multiplier = tl.full([M], keep_scale, tl.float32)
    if DROPOUT or HAS_GATE:
        row_sentence = tl.load(sentence + rows, mask=real, other=0)
        if DROPOUT:
            hashed = _row_hash(hash_start, row_sentence, head, rows - row_begin)
        if HAS_GATE:
            gates = tl.load(gate + row_sentence.to(tl.int64) * heads + head, mask=real, other=0.0)
            multiplier *= gates.to(tl.float32)
    threshold = threshold.to(tl.uint32, bitcast=True)
    if HAS_BIAS:
        bias += head.to(tl.int64) * bias_columns + bias_columns // 2
    k += head.to(tl.int64) * head_stride_k
    v += head.to(tl.int64) * head_stride_v
    queries = _load(q + head.to(tl.int64) * head_stride_q, first, tokens, stride_q, M, HEAD_SIZE, D)
    stride_out = heads * HEAD_SIZE
    out += head * HEAD_SIZE
    lse_rows = lse + tl.cast(first, tl.int64) * heads + head + tl.arange(0, M) * heads

    context, log_sum = _attend(
        queries, k, v, stride_k, stride_v, low, high, rows, row_begin, row_end, hashed, scale, threshold, bias,
        M, N, HEAD_SIZE, D, HAS_BIAS, DROPOUT, PRECISION,
    )  # fmt: skip
    if not _any_nan(context):
        _store(out, context * multiplier[:, None], first, real, stride_out, M, HEAD_SIZE, D)
        tl.store(lse_rows, log_sum, mask=real)
    else:
        while low < high:
            stop = tl.load(end + low)
            context, log_sum = _attend(
                queries, k, v, stride_k, stride_v, low, stop, rows, row_begin, row_end, hashed, scale, threshold, bias,
                M, N, HEAD_SIZE, D, HAS_BIAS, DROPOUT, PRECISION,
            )  # fmt: skip
            mine = real & (row_begin == low)
            _store(out, context * multiplier[:, None], first, mine, stride_out, M, HEAD_SIZE, D)
            tl.store(lse_rows, log_sum, mask=mine)
            low = stop


@triton.jit
def _probabilities(
    left,  # [L, D], queries or keys, as in _scores
    right,  # [R, D]
    left_product,  # [L, D], the upstream gradient of the same queries, or the values of the same keys
    right_product,  # [R, D]
    seen,  # [L, R]
    distance,  # [L, R]
    hashed,  # of the queries, as [L, 1] or [1, R]; so are lse, which comes times log2(e), and multiplier
    position,  # of the keys, counted from their sentence's begin
    lse,
    multiplier,  # gate / (1 - dropout)
    scale,
    threshold,
    bias,
    HAS_BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The softmax, the gradient with respect to it, and the weights that it gave the values; each [L, R]."""
    logits = _scores(left, right, seen, distance, scale, bias, HAS_BIAS, PRECISION)
    softmax = tl.where(seen, tl.exp2(logits - lse), 0.0)
    gradient = _dot(left_product, tl.trans(right_product), None, PRECISION) * multiplier
    weights = softmax * multiplier
    used = seen
    if DROPOUT:
        stays = _mix(hashed ^ position.to(tl.uint32)) >= threshold
        weights = tl.where(stays, weights, 0.0)
        used = seen & stays
    return softmax, tl.where(used, gradient, 0.0), weights


@triton.jit
def _inner_products(
    queries,
    upstream,
    k,
    v,
    stride_k,
    stride_v,
    low,
    high,
    rows,
    begin,
    end,
    hashed,
    lse,
    multiplier,
    scale,
    threshold,
    bias,
    M: tl.constexpr,
    N: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Upstream gradient times result for each query, [M], from the parts of the result: a gate of 0 left none."""
    inner = tl.zeros([M], tl.float32)
    for first in range(low, high, N):
        columns = first + tl.arange(0, N)
        seen = (columns[None, :] >= begin[:, None]) & (columns[None, :] < end[:, None])
        softmax, gradient, _ = _probabilities(
            queries, _load(k, first, high, stride_k, N, HEAD_SIZE, D),
            upstream, _load(v, first, high, stride_v, N, HEAD_SIZE, D),
            seen, columns[None, :] - rows[:, None], hashed[:, None], columns[None, :] - begin[:, None],
            lse[:, None], multiplier[:, None], scale, threshold, bias, HAS_BIAS, DROPOUT, PRECISION,
        )  # fmt: skip
        inner += tl.sum(softmax * gradient, 1)
    return inner


@triton.jit
def _query_gradient(
    queries,
    upstream,
    k,
    v,
    stride_k,
    stride_v,
    low,
    high,
    rows,
    begin,
    end,
    hashed,
    lse,
    inner,  # [M], the sum of softmax times its gradient
    multiplier,
    scale,
    threshold,
    bias,
    M: tl.constexpr,
    N: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradient of one tile of queries, [M, D]."""
    result = tl.zeros([M, D], tl.float32)
    for first in range(low, high, N):
        columns = first + tl.arange(0, N)
        seen = (columns[None, :] >= begin[:, None]) & (columns[None, :] < end[:, None])
        keys = _load(k, first, high, stride_k, N, HEAD_SIZE, D)
        softmax, gradient, _ = _probabilities(
            queries, keys, upstream, _load(v, first, high, stride_v, N, HEAD_SIZE, D),
            seen, columns[None, :] - rows[:, None], hashed[:, None], columns[None, :] - begin[:, None],
            lse[:, None], multiplier[:, None], scale, threshold, bias, HAS_BIAS, DROPOUT, PRECISION,
        )  # fmt: skip
        change = softmax * (gradient - inner[:, None])
        result = _dot(tl.where(seen, change, 0.0).to(keys.dtype), keys, result, PRECISION)
    return result * scale


@triton.jit(do_not_specialize=["tokens", "heads", "hash_start", "threshold"])
def query_gradient_kernel(
    q,  # as in forward_kernel, down to out and lse
    k,
    v,
    bias,
    gate,
    sentence,
    begin,
    end,
    out,  # not read where there is a gate
    lse,
    upstream,  # [tokens, heads, head_size], strides as q
    grad_q,  # [tokens, heads, head_size], contiguous
    inner,  # [heads, tokens] float32, written for the kernels that follow: sum of softmax times its gradient
    gate_rows,  # [heads, tokens] float32: each token's part of the gate's gradient; None without a gate
    stride_q,
    head_stride_q,
    stride_k,
    head_stride_k,
    stride_v,
    head_stride_v,
    stride_upstream,
    head_stride_upstream,
    bias_columns,
    tokens,
    heads,
    scale,
    hash_start,
    threshold,
    keep_scale,
    HEAD_SIZE: tl.constexpr,
    D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_GATE: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
):
    head = tl.program_id(0) % heads
    first = tl.program_id(0) // heads * M
    rows = first + tl.arange(0, M)
    real = rows < tokens
    row_begin = tl.load(begin + rows, mask=real, other=0)
    row_end = tl.load(end + rows, mask=real, other=0)
    low = tl.load(begin + first)
    high = tl.load(end + tl.minimum(first + M, tokens) - 1)
    hashed = row_begin.to(tl.uint32)
    multiplier = tl.full([M], keep_scale, tl.float32)
    gates = multiplier
    if DROPOUT or HAS_GATE:
        row_sentence = tl.load(sentence + rows, mask=real, other=0)
        if DROPOUT:
            hashed = _row_hash(hash_start, row_sentence, head, rows - row_begin)
        if HAS_GATE:
            gates = tl.load(gate + row_sentence.to(tl.int64) * heads + head, mask=real, other=0.0).to(tl.float32)
    threshold = threshold.to(tl.uint32, bitcast=True)
    if HAS_BIAS:
        bias += head.to(tl.int64) * bias_columns + bias_columns // 2
    k += head.to(tl.int64) * head_stride_k
    v += head.to(tl.int64) * head_stride_v
    queries = _load(q + head.to(tl.int64) * head_stride_q, first, tokens, stride_q, M, HEAD_SIZE, D)
    upstream += head.to(tl.int64) * head_stride_upstream
    up = _load(upstream, first, tokens, stride_upstream, M, HEAD_SIZE, D)
    row_lse = (
        tl.load(lse + tl.cast(first, tl.int64) * heads + head + tl.arange(0, M) * heads, mask=real, other=0.0) * LOG2E
    )
    stride_out = heads * HEAD_SIZE
    inner_rows = head.to(tl.int64) * tokens + rows
    if HAS_GATE:
        row_inner = _inner_products(
            queries, up, k, v, stride_k, stride_v, low, high, rows, row_begin, row_end, hashed, row_lse, multiplier,
            scale, threshold, bias, M, N, HEAD_SIZE, D, HAS_BIAS, DROPOUT, PRECISION,
        )  # fmt: skip
        tl.store(gate_rows + inner_rows, row_inner, mask=real)
        row_inner *= gates
        multiplier *= gates
    else:
        result = _load(out + head * HEAD_SIZE, first, tokens, stride_out, M, HEAD_SIZE, D)
        row_inner = tl.sum(up.to(tl.float32) * result.to(tl.float32), 1)
    tl.store(inner + inner_rows, row_inner, mask=real)

    grad_q += head * HEAD_SIZE
    gradient = _query_gradient(
        queries, up, k, v, stride_k, stride_v, low, high, rows, row_begin, row_end, hashed, row_lse, row_inner,
        multiplier, scale, threshold, bias, M, N, HEAD_SIZE, D, HAS_BIAS, DROPOUT, PRECISION,
    )  # fmt: skip
    if not _any_nan(gradient):
        _store(grad_q, gradient, first, real, stride_out, M, HEAD_SIZE, D)
    else:
        while low < high:
            stop = tl.load(end + low)
            gradient = _query_gradient(
                queries, up, k, v, stride_k, stride_v, low, stop, rows, row_begin, row_end, hashed, row_lse, row_inner,
                multiplier, scale, threshold, bias, M, N, HEAD_SIZE, D, HAS_BIAS, DROPOUT, PRECISION,
            )  # fmt: skip
            _store(grad_q, gradient, first, real & (row_begin == low), stride_out, M, HEAD_SIZE, D)
            low = stop


@triton.jit
def _key_gradients(
    keys,
    values,
    q,
    upstream,
    gate,
    sentence,
    begin,
    lse,
    inner,
    stride_q,
    stride_upstream,
    low,  # the queries to visit: low to high
    high,
    rows,  # [N], numbers of the key tokens; their sentences begin and end at row_begin and row_end
    row_begin,
    row_end,
    head,
    heads,
    scale,
    hash_start,
    threshold,
    keep_scale,
    bias,
    M: tl.constexpr,
    N: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_GATE: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradients of one tile of keys and of their values, both [N, D]."""
    grad_keys = tl.zeros([N, D], tl.float32)
    grad_values = tl.zeros([N, D], tl.float32)
    for first in range(low, high, M):
        columns = first + tl.arange(0, M)
        real = columns < high
        hashed = columns.to(tl.uint32)
        multiplier = tl.full([M], keep_scale, tl.float32)
        if DROPOUT or HAS_GATE:
            query_sentence = tl.load(sentence + columns, mask=real, other=0)
            if DROPOUT:
                position = columns - tl.load(begin + columns, mask=real, other=0)
                hashed = _row_hash(hash_start, query_sentence, head, position)
            if HAS_GATE:
                gates = tl.load(gate + query_sentence.to(tl.int64) * heads + head, mask=real, other=0.0)
                multiplier *= gates.to(tl.float32)
        query_lse = tl.load(lse + columns.to(tl.int64) * heads, mask=real, other=0.0) * LOG2E
        query_inner = tl.load(inner + columns, mask=real, other=0.0)
        queries = _load(q, first, high, stride_q, M, HEAD_SIZE, D)
        up = _load(upstream, first, high, stride_upstream, M, HEAD_SIZE, D)
        seen = (columns[None, :] >= row_begin[:, None]) & (columns[None, :] < row_end[:, None])
        # Transposed, [keys, queries]: both products below then take their left side as it was computed.
        softmax, gradient, weights = _probabilities(
            keys, queries, values, up, seen, rows[:, None] - columns[None, :], hashed[None, :],
            (rows - row_begin)[:, None], query_lse[None, :], multiplier[None, :], scale, threshold, bias,
            HAS_BIAS, DROPOUT, PRECISION,
        )  # fmt: skip
        grad_values = _dot(weights.to(up.dtype), up, grad_values, PRECISION)
        change = tl.where(seen, softmax * (gradient - query_inner[None, :]), 0.0)
        grad_keys = _dot(change.to(queries.dtype), queries, grad_keys, PRECISION)
    return grad_keys * scale, grad_values


@triton.jit(do_not_specialize=["tokens", "heads", "hash_start", "threshold"])
def key_gradient_kernel(
    q,  # as in query_gradient_kernel
    k,
    v,
    bias,
    gate,
    sentence,
    begin,
    end,
    lse,
    upstream,
    inner,  # read here
    grad_k,  # [tokens, heads, head_size], contiguous, and so is grad_v
    grad_v,
    stride_q,
    head_stride_q,
    stride_k,
    head_stride_k,
    stride_v,
    head_stride_v,
    stride_upstream,
    head_stride_upstream,
    bias_columns,
    tokens,
    heads,
    scale,
    hash_start,
    threshold,
    keep_scale,
    HEAD_SIZE: tl.constexpr,
    D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_GATE: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
):
    head = tl.program_id(0) % heads
    first = tl.program_id(0) // heads * N
    rows = first + tl.arange(0, N)
    real = rows < tokens
    row_begin = tl.load(begin + rows, mask=real, other=0)
    row_end = tl.load(end + rows, mask=real, other=0)
    low = tl.load(begin + first)
    high = tl.load(end + tl.minimum(first + N, tokens) - 1)
    threshold = threshold.to(tl.uint32, bitcast=True)
    if HAS_BIAS:
        bias += head.to(tl.int64) * bias_columns + bias_columns // 2
    q += head.to(tl.int64) * head_stride_q
    upstream += head.to(tl.int64) * head_stride_upstream
    lse += head
    inner += head.to(tl.int64) * tokens
    keys = _load(k + head.to(tl.int64) * head_stride_k, first, tokens, stride_k, N, HEAD_SIZE, D)
    values = _load(v + head.to(tl.int64) * head_stride_v, first, tokens, stride_v, N, HEAD_SIZE, D)
    stride_out = heads * HEAD_SIZE
    grad_k += head * HEAD_SIZE
    grad_v += head * HEAD_SIZE

    grad_keys, grad_values = _key_gradients(
        keys, values, q, upstream, gate, sentence, begin, lse, inner, stride_q, stride_upstream, low, high,
        rows, row_begin, row_end, head, heads, scale, hash_start, threshold, keep_scale, bias,
        M, N, HEAD_SIZE, D, HAS_BIAS, HAS_GATE, DROPOUT, PRECISION,
    )  # fmt: skip
    if not _any_nan(grad_keys + grad_values):
        _store(grad_k, grad_keys, first, real, stride_out, N, HEAD_SIZE, D)
        _store(grad_v, grad_values, first, real, stride_out, N, HEAD_SIZE, D)
    else:
        while low < high:
            stop = tl.load(end + low)
            grad_keys, grad_values = _key_gradients(
                keys, values, q, upstream, gate, sentence, begin, lse, inner, stride_q, stride_upstream, low, stop,
                rows, row_begin, row_end, head, heads, scale, hash_start, threshold, keep_scale, bias,
                M, N, HEAD_SIZE, D, HAS_BIAS, HAS_GATE, DROPOUT, PRECISION,
            )  # fmt: skip
            mine = real & (row_begin == low)
            _store(grad_k, grad_keys, first, mine, stride_out, N, HEAD_SIZE, D)
            _store(grad_v, grad_values, first, mine, stride_out, N, HEAD_SIZE, D)
            low = stop


@triton.jit(do_not_specialize=["tokens", "heads", "hash_start", "threshold"])
def bias_gradient_kernel(
    q,  # as in query_gradient_kernel
    k,
    v,
    bias,
    gate,
    sentence,
    begin,
    end,
    lse,
    upstream,
    inner,
    partial,  # [chunks, heads, bias_columns] float32, zero: the sum over every chunks-th tile of queries
    stride_q,
    head_stride_q,
    stride_k,
    head_stride_k,
    stride_v,
    head_stride_v,
    stride_upstream,
    head_stride_upstream,
    bias_columns,
    tokens,
    heads,
    scale,
    hash_start,
    threshold,
    keep_scale,
    HEAD_SIZE: tl.constexpr,
    D: tl.constexpr,
    HAS_GATE: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,  # equal to M
):
    head = tl.program_id(0) % heads
    chunk = tl.program_id(0) // heads
    chunks = tl.num_programs(0) // heads
    threshold = threshold.to(tl.uint32, bitcast=True)
    partial += tl.program_id(0).to(tl.int64) * bias_columns
    center = bias_columns // 2
    bias += head.to(tl.int64) * bias_columns + center
    q += head.to(tl.int64) * head_stride_q
    k += head.to(tl.int64) * head_stride_k
    v += head.to(tl.int64) * head_stride_v
    upstream += head.to(tl.int64) * head_stride_upstream
    lse += head
    inner += head.to(tl.int64) * tokens
    lane = tl.arange(0, N)
    diagonal = lane[:, None] + lane[None, :]
    for first in range(chunk * N, tokens, chunks * N):
        rows = first + lane
        real = rows < tokens
        row_begin = tl.load(begin + rows, mask=real, other=0)
        row_end = tl.load(end + rows, mask=real, other=0)
        low = tl.load(begin + first)
        high = tl.load(end + tl.minimum(first + N, tokens) - 1)
        hashed = row_begin.to(tl.uint32)
        multiplier = tl.full([N], keep_scale, tl.float32)
        if DROPOUT or HAS_GATE:
            row_sentence = tl.load(sentence + rows, mask=real, other=0)
            if DROPOUT:
                hashed = _row_hash(hash_start, row_sentence, head, rows - row_begin)
            if HAS_GATE:
                gates = tl.load(gate + row_sentence.to(tl.int64) * heads + head, mask=real, other=0.0)
                multiplier *= gates.to(tl.float32)
        row_lse = tl.load(lse + rows.to(tl.int64) * heads, mask=real, other=0.0) * LOG2E
        row_inner = tl.load(inner + rows, mask=real, other=0.0)
        queries = _load(q, first, tokens, stride_q, N, HEAD_SIZE, D)
        up = _load(upstream, first, tokens, stride_upstream, N, HEAD_SIZE, D)
        for start in range(low, high, N):
            columns = start + lane
            seen = (columns[None, :] >= row_begin[:, None]) & (columns[None, :] < row_end[:, None])
            softmax, gradient, _ = _probabilities(
                queries, _load(k, start, high, stride_k, N, HEAD_SIZE, D),
                up, _load(v, start, high, stride_v, N, HEAD_SIZE, D),
                seen, columns[None, :] - rows[:, None], hashed[:, None], columns[None, :] - row_begin[:, None],
                row_lse[:, None], multiplier[:, None], scale, threshold, bias, True, DROPOUT, PRECISION,
            )  # fmt: skip
            change = tl.where(seen, softmax * (gradient - row_inner[:, None]), 0.0)
            # Turn row r left by r: column c then holds key - query = start - first + c, or N less where it went round.
            turned = tl.gather(change, diagonal % N, 1)
            near = tl.sum(tl.where(diagonal < N, turned, 0.0), 0)
            far = tl.sum(tl.where(diagonal >= N, turned, 0.0), 0)
            # The same column comes again from another thread of this program.
            column = center + start - first + lane
            inside = (column >= 0) & (column < bias_columns)
            tl.store(partial + column, tl.load(partial + column, mask=inside, other=0.0) + near, mask=inside)
            tl.debug_barrier()
            column -= N
            inside = (column >= 0) & (column < bias_columns)
            tl.store(partial + column, tl.load(partial + column, mask=inside, other=0.0) + far, mask=inside)
            tl.debug_barrier()


@triton.jit(do_not_specialize=["tokens", "heads"])
def gate_gradient_kernel(
    gate_rows,  # [heads, tokens] float32
    cu_lengths,  # [sentences + 1] int64
    grad_gate,  # [sentences, heads] float32
    tokens,
    heads,
    N: tl.constexpr,
):
    head = tl.program_id(0) % heads
    sentence = tl.program_id(0) // heads
    low = tl.load(cu_lengths + sentence)
    high = tl.load(cu_lengths + sentence + 1)
    sums = tl.zeros([N], tl.float32)
    for first in range(low, high, N):
        rows = first + tl.arange(0, N)
        sums += tl.load(gate_rows + head.to(tl.int64) * tokens + rows, mask=rows < high, other=0.0)
    tl.store(grad_gate + tl.program_id(0).to(tl.int64), tl.sum(sums, 0))


# ------------------------------------------------------------------------------------------------------ configurations

MAX_HEAD_SIZE = 128
GATE_TILE = 64
# The bias gradient is summed in this many parts, whatever the device, so that it is the same on all of one kind.
BIAS_CHUNKS = 64

# Per kernel for (architecture, (arithmetic, padded head size)). "ieee" is float32 without tensor cores.
Shape = tuple[str, int]


def _table(rows: Mapping[tuple[int, str], Mapping[int, tuple[int, int, int, int]]]) -> ConfigTable:
    """rows: for (architecture, arithmetic) and padded head size: queries and keys a tile, warps, stages."""
    return {
        (arch, (arithmetic, size)): LaunchConfig({"M": m, "N": n}, num_warps=warps, num_stages=stages)
        for (arch, arithmetic), sizes in rows.items()
        for size, (m, n, warps, stages) in sizes.items()
    }


# Unmeasured: the largest tiles that compile without spills with bias, dropout and gates at once, of 64 at most, which a
# few short sentences fill.
FORWARD = _table(
    {
        (80, "half"): {32: (64, 32, 4, 3), 64: (64, 32, 4, 2), 128: (64, 64, 8, 2)},
        (90, "half"): {32: (64, 64, 4, 2), 64: (64, 64, 4, 2), 128: (64, 64, 8, 2)},
        (80, "tf32"): {32: (64, 16, 8, 2), 64: (64, 16, 8, 2), 128: (64, 16, 8, 2)},
        (90, "tf32"): {32: (64, 32, 4, 2), 64: (64, 32, 4, 2), 128: (64, 32, 8, 2)},
        (80, "ieee"): {32: (32, 32, 4, 1), 64: (32, 32, 8, 1), 128: (16, 16, 8, 1)},
    }
)
QUERY_GRADIENT = _table(
    {
        (80, "half"): {32: (64, 32, 4, 2), 64: (64, 32, 8, 2), 128: (64, 32, 8, 2)},
        (90, "half"): {32: (64, 32, 4, 2), 64: (64, 32, 4, 2), 128: (64, 32, 8, 2)},
        (80, "tf32"): {32: (64, 32, 4, 2), 64: (32, 32, 8, 1), 128: (32, 16, 8, 1)},
        (90, "tf32"): {32: (64, 32, 4, 2), 64: (64, 32, 4, 2), 128: (32, 16, 8, 2)},
        (80, "ieee"): {32: (32, 32, 4, 1), 64: (32, 32, 8, 1), 128: (16, 16, 8, 1)},
    }
)
KEY_GRADIENT = _table(
    {
        (80, "half"): {32: (32, 64, 4, 3), 64: (32, 64, 8, 2), 128: (32, 64, 8, 2)},
        (90, "half"): {32: (32, 64, 4, 2), 64: (32, 64, 4, 2), 128: (32, 32, 8, 2)},
        (80, "tf32"): {32: (32, 64, 8, 2), 64: (32, 32, 4, 2), 128: (32, 32, 8, 1)},
        (80, "ieee"): {32: (32, 32, 8, 1), 64: (32, 32, 8, 1), 128: (16, 16, 8, 1)},
    }
)
BIAS_GRADIENT = _table(
    {
        (80, "half"): {32: (32, 32, 4, 1), 64: (32, 32, 8, 1), 128: (32, 32, 8, 1)},
        (80, "tf32"): {32: (32, 32, 4, 1), 64: (32, 32, 8, 1), 128: (16, 16, 8, 1)},
        (80, "ieee"): {32: (32, 32, 4, 1), 64: (32, 32, 8, 1), 128: (16, 16, 8, 1)},
    }
)

# ------------------------------------------------------------------------------------------------------------ launches


def _signed(word: int) -> int:
    """The same 32 bits as a signed number, so that every value has one type in Triton's eyes."""
    return word - 2**32 if word >= 2**31 else word


def _aligned(x: Tensor, padded_size: int) -> Tensor:
    """x as the kernels take it: columns side by side, and rows and heads at multiples of 16 elements.

    With any other strides the compiler loads element by element, through so many registers that they spill. Only head
    sizes that are no multiple of 16, and odd views, need the copy.
    """
    if x.stride(2) == 1 and x.stride(0) % 16 == 0 and x.stride(1) % 16 == 0 and x.data_ptr() % 16 == 0:
        return x
    copy = x.new_empty(*x.shape[:2], padded_size)[..., : x.shape[2]]
    return copy.copy_(x)


class _Launch:
    """What the kernels of one call share."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_lengths: Tensor,
        bias: Tensor | None,
        gate: Tensor | None,
        scale: float,
        dropout: float,
        seed: int,
    ) -> None:
        self.tokens, self.heads, head_size = query.shape
        maps = token_maps(cu_lengths, self.tokens)
        # As torch's own products do, float32 takes tensor cores only where the user allowed it.
        precision = "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
        self.shape: Shape = (
            precision if query.dtype == torch.float32 else "half",
            max(32, triton.next_power_of_2(head_size)),
        )
        q, k, v = (_aligned(x, self.shape[1]) for x in (query, key, value))
        self.arch = architecture(query.device)
        hash_start: Any = reference.MASK_START
        for word in (seed & reference.LOW_BITS, (seed >> 32) & reference.LOW_BITS):
            hash_start = reference._mix(hash_start ^ word)
        self.arguments = {
            "q": q,
            "k": k,
            "v": v,
            "bias": None if bias is None else bias.contiguous(),
            "gate": None if gate is None else gate.contiguous(),
            "sentence": maps.sentence,
            "begin": maps.begin,
            "end": maps.end,
            "stride_q": q.stride(0),
            "head_stride_q": q.stride(1),
            "stride_k": k.stride(0),
            "head_stride_k": k.stride(1),
            "stride_v": v.stride(0),
            "head_stride_v": v.stride(1),
            "bias_columns": 0 if bias is None else bias.shape[1],
            "tokens": self.tokens,
            "heads": self.heads,
            "scale": scale,
            "hash_start": _signed(hash_start),
            "threshold": _signed(int(dropout * 2.0**32)),
            "keep_scale": 1.0 / (1.0 - dropout),
            "HEAD_SIZE": head_size,
            "D": self.shape[1],
            "HAS_BIAS": bias is not None,
            "HAS_GATE": gate is not None,
            "DROPOUT": dropout > 0,
            "PRECISION": precision,
        }

    def config(self, table: ConfigTable) -> LaunchConfig:
        return choose_config(table, self.arch, self.shape)

    def programs(self, tile: int) -> tuple[int]:
        return (triton.cdiv(self.tokens, tile) * self.heads,)


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
    """As `reference.attention_forward`, to which heads wider than MAX_HEAD_SIZE are left. No float64.

    Products of float32 take tensor cores, and lose 13 bits, only where `torch.backends.cuda.matmul.fp32_precision` is
    "tf32". Returns [tokens, heads, head_size] and lse, [tokens, heads] in float32.
    """
    if query.shape[2] > MAX_HEAD_SIZE:
        return reference.attention_forward(query, key, value, cu_lengths, bias, gate, scale, dropout, seed)
    out = query.new_empty(query.shape)
    lse = query.new_empty(query.shape[:2], dtype=torch.float32)
    if query.numel() == 0:
        return out, lse
    with device_guard(query):
        launch = _Launch(query, key, value, cu_lengths, bias, gate, scale, dropout, seed)
        config = launch.config(FORWARD)
        forward_kernel[launch.programs(config["M"])](**launch.arguments, out=out, lse=lse, **config.arguments())
    return out, lse


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
    """As `reference.attention_backward`: gradients of query, key, value, bias and gate. Deterministic."""
    if query.shape[2] > MAX_HEAD_SIZE:
        return reference.attention_backward(
            query, key, value, cu_lengths, bias, gate, scale, dropout, seed, out, lse, upstream
        )
    grads = [x.new_empty(x.shape) for x in (query, key, value)]
    grad_bias, grad_gate = (lse.new_zeros((0,) if x is None else x.shape) for x in (bias, gate))
    result = (grads[0], grads[1], grads[2], grad_bias, grad_gate)
    if query.numel() == 0:
        return result
    with device_guard(query):
        launch = _Launch(query, key, value, cu_lengths, bias, gate, scale, dropout, seed)
        upstream = _aligned(upstream, launch.shape[1])
        by_token = lse.new_empty((2 if gate is not None else 1, launch.heads, launch.tokens))
        shared = launch.arguments | {
            "lse": lse.contiguous(),
            "upstream": upstream,
            "stride_upstream": upstream.stride(0),
            "head_stride_upstream": upstream.stride(1),
            "inner": by_token[0],
        }

        config = launch.config(QUERY_GRADIENT)
        gate_rows = None if gate is None else by_token[1]
        query_gradient_kernel[launch.programs(config["M"])](
            **shared, out=out.contiguous(), grad_q=grads[0], gate_rows=gate_rows, **config.arguments()
        )
        config = launch.config(KEY_GRADIENT)
        key_gradient_kernel[launch.programs(config["N"])](
            **shared, grad_k=grads[1], grad_v=grads[2], **config.arguments()
        )
        if bias is not None:
            config = launch.config(BIAS_GRADIENT)
            chunks = min(BIAS_CHUNKS, triton.cdiv(launch.tokens, config["N"]))
            partial = lse.new_zeros((chunks, *bias.shape))
            del shared["HAS_BIAS"]
            bias_gradient_kernel[(chunks * launch.heads,)](**shared, partial=partial, **config.arguments())
            torch.sum(partial, 0, out=grad_bias)
        if grad_gate.numel():
            gate_gradient_kernel[(grad_gate.numel(),)](
                gate_rows, cu_lengths, grad_gate, launch.tokens, launch.heads, N=GATE_TILE
            )
    return result
