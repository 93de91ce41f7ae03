"""The forward kernel of attention over packed sentences; `triton_attention` says how it works and launches it."""

import triton
import triton.language as tl

from sparsecse.kernels import triton_attention_tiles as tiles
from sparsecse.kernels.triton_dot import dot


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
        columns, seen = tiles.step(first, begin, end, N)
        keys = tiles.load_rows(k, first, high, stride_k, N, HEAD_SIZE, D)
        distance = columns[None, :] - rows[:, None]
        logits = tiles.scores(queries, keys, seen, distance, scale, bias, HAS_BIAS, PRECISION)
        grown = tl.maximum(largest, tl.max(logits, 1))
        # A row whose sentence has not come yet has seen nothing, and -inf - -inf would be NaN.
        shift = tl.where(grown == float("-inf"), 0.0, grown)
        weights = tl.exp2(logits - shift[:, None])
        shrink = tl.exp2(largest - shift)
        total = total * shrink + tl.sum(weights, 1)
        if DROPOUT:
            position = (columns[None, :] - begin[:, None]).to(tl.uint32)
            weights = tl.where(tiles.mix(hashed[:, None] ^ position) >= threshold, weights, 0.0)
        values = tiles.load_rows(v, first, high, stride_v, N, HEAD_SIZE, D)
        result = dot(weights.to(values.dtype), values, result * shrink[:, None], PRECISION)
        largest = grown
    total = tl.where(total == 0.0, 1.0, total)
    return result / total[:, None], (largest + tl.log2(total)) * tiles.LN2


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
    """Grid: tiles of M queries times heads, the heads of a tile side by side."""
    # Heads of one tile run side by side: they share the rows' cache lines.
    head = tl.program_id(0) % heads
    first = tl.program_id(0) // heads * M
    rows, real, row_begin, row_end, row_sentence, low, high = tiles.tile(first, tokens, sentence, begin, end, M)
    hashed, gates = tiles.factors(
        gate, hash_start, row_sentence, rows - row_begin, real, head, heads, HAS_GATE, DROPOUT
    )
    multiplier = keep_scale * gates
    threshold = threshold.to(tl.uint32, bitcast=True)
    if HAS_BIAS:
        bias += head.to(tl.int64) * bias_columns + bias_columns // 2
    k += head.to(tl.int64) * head_stride_k
    v += head.to(tl.int64) * head_stride_v
    queries = tiles.load_rows(q + head.to(tl.int64) * head_stride_q, first, tokens, stride_q, M, HEAD_SIZE, D)
    stride_out = heads * HEAD_SIZE
    out += head * HEAD_SIZE
    lse_rows = lse + tl.cast(first, tl.int64) * heads + head + tl.arange(0, M) * heads

    context, log_sum = _attend(
        queries, k, v, stride_k, stride_v, low, high, rows, row_begin, row_end, hashed, scale, threshold, bias,
        M, N, HEAD_SIZE, D, HAS_BIAS, DROPOUT, PRECISION,
    )  # fmt: skip
    if not tiles.any_nan(context):
        tiles.store_rows(out, context * multiplier[:, None], first, real, stride_out, M, HEAD_SIZE, D)
        tl.store(lse_rows, log_sum, mask=real)
    else:
        while low < high:
            stop = tl.load(end + low)
            context, log_sum = _attend(
                queries, k, v, stride_k, stride_v, low, stop, rows, row_begin, row_end, hashed, scale, threshold, bias,
                M, N, HEAD_SIZE, D, HAS_BIAS, DROPOUT, PRECISION,
            )  # fmt: skip
            mine = real & (row_begin == low)
            tiles.store_rows(out, context * multiplier[:, None], first, mine, stride_out, M, HEAD_SIZE, D)
            tl.store(lse_rows, log_sum, mask=mine)
            low = stop
