"""The backward kernels of attention over packed sentences; `triton_attention` says how they work and launches them."""

import triton
import triton.language as tl

from sparsecse.kernels import triton_attention_tiles as tiles
from sparsecse.kernels.triton_dot import dot


@triton.jit
def _probabilities(
    left,  # [L, D], queries or keys, as in scores
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
    logits = tiles.scores(left, right, seen, distance, scale, bias, HAS_BIAS, PRECISION)
    softmax = tl.where(seen, tl.exp2(logits - lse), 0.0)
    gradient = dot(left_product, tl.trans(right_product), None, PRECISION) * multiplier
    weights = softmax * multiplier
    used = seen
    if DROPOUT:
        stays = tiles.mix(hashed ^ position.to(tl.uint32)) >= threshold
        weights = tl.where(stays, weights, 0.0)
        used = seen & stays
    return softmax, tl.where(used, gradient, 0.0), weights


@triton.jit
def _walk_keys(
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
    inner,  # [M], what this returns without GRADIENT, times the gates; None then
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
    GRADIENT: tl.constexpr,
):
    """The gradient of one tile of queries, [M, D], not yet times `scale`.

    Without GRADIENT instead the sum of softmax times its gradient for each query, [M]. It is upstream gradient times
    result, from the parts of the result: a gate of 0 left none.
    """
    result = tl.zeros([M, D] if GRADIENT else [M], tl.float32)
    for first in range(low, high, N):
        columns, seen = tiles.step(first, begin, end, N)
        keys = tiles.load_rows(k, first, high, stride_k, N, HEAD_SIZE, D)
        softmax, gradient, _ = _probabilities(
            queries, keys, upstream, tiles.load_rows(v, first, high, stride_v, N, HEAD_SIZE, D),
            seen, columns[None, :] - rows[:, None], hashed[:, None], columns[None, :] - begin[:, None],
            lse[:, None], multiplier[:, None], scale, threshold, bias, HAS_BIAS, DROPOUT, PRECISION,
        )  # fmt: skip
        if GRADIENT:
            change = tl.where(seen, softmax * (gradient - inner[:, None]), 0.0)
            result = dot(change.to(keys.dtype), keys, result, PRECISION)
        else:
            result += tl.sum(softmax * gradient, 1)
    return result


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
    """Gradients of the queries, and what the other kernels need by query. Grid: as in forward_kernel."""
    head = tl.program_id(0) % heads
    first = tl.program_id(0) // heads * M
    rows, real, row_begin, row_end, row_sentence, low, high = tiles.tile(first, tokens, sentence, begin, end, M)
    hashed, gates = tiles.factors(
        gate, hash_start, row_sentence, rows - row_begin, real, head, heads, HAS_GATE, DROPOUT
    )
    multiplier = tl.full([M], keep_scale, tl.float32)
    threshold = threshold.to(tl.uint32, bitcast=True)
    if HAS_BIAS:
        bias += head.to(tl.int64) * bias_columns + bias_columns // 2
    k += head.to(tl.int64) * head_stride_k
    v += head.to(tl.int64) * head_stride_v
    queries = tiles.load_rows(q + head.to(tl.int64) * head_stride_q, first, tokens, stride_q, M, HEAD_SIZE, D)
    upstream += head.to(tl.int64) * head_stride_upstream
    up = tiles.load_rows(upstream, first, tokens, stride_upstream, M, HEAD_SIZE, D)
    row_lse = (
        tl.load(lse + tl.cast(first, tl.int64) * heads + head + tl.arange(0, M) * heads, mask=real, other=0.0)
        * tiles.LOG2E
    )
    stride_out = heads * HEAD_SIZE
    inner_rows = head.to(tl.int64) * tokens + rows
    if HAS_GATE:
        row_inner = _walk_keys(
            queries, up, k, v, stride_k, stride_v, low, high, rows, row_begin, row_end, hashed, row_lse, None,
            multiplier, scale, threshold, bias, M, N, HEAD_SIZE, D, HAS_BIAS, DROPOUT, PRECISION, False,
        )  # fmt: skip
        tl.store(gate_rows + inner_rows, row_inner, mask=real)
        row_inner *= gates
        multiplier *= gates
    else:
        result = tiles.load_rows(out + head * HEAD_SIZE, first, tokens, stride_out, M, HEAD_SIZE, D)
        row_inner = tl.sum(up.to(tl.float32) * result.to(tl.float32), 1)
    tl.store(inner + inner_rows, row_inner, mask=real)

    grad_q += head * HEAD_SIZE
    gradient = _walk_keys(
        queries, up, k, v, stride_k, stride_v, low, high, rows, row_begin, row_end, hashed, row_lse, row_inner,
        multiplier, scale, threshold, bias, M, N, HEAD_SIZE, D, HAS_BIAS, DROPOUT, PRECISION, True,
    )  # fmt: skip
    if not tiles.any_nan(gradient):
        tiles.store_rows(grad_q, gradient * scale, first, real, stride_out, M, HEAD_SIZE, D)
    else:
        while low < high:
            stop = tl.load(end + low)
            gradient = _walk_keys(
                queries, up, k, v, stride_k, stride_v, low, stop, rows, row_begin, row_end, hashed, row_lse, row_inner,
                multiplier, scale, threshold, bias, M, N, HEAD_SIZE, D, HAS_BIAS, DROPOUT, PRECISION, True,
            )  # fmt: skip
            tiles.store_rows(grad_q, gradient * scale, first, real & (row_begin == low), stride_out, M, HEAD_SIZE, D)
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
        columns, seen = tiles.step(first, row_begin, row_end, M)
        real = columns < high
        query_sentence = tl.load(sentence + columns, mask=real, other=0)
        position = columns - tl.load(begin + columns, mask=real, other=0)
        hashed, gates = tiles.factors(gate, hash_start, query_sentence, position, real, head, heads, HAS_GATE, DROPOUT)
        multiplier = keep_scale * gates
        query_lse = tl.load(lse + columns.to(tl.int64) * heads, mask=real, other=0.0) * tiles.LOG2E
        query_inner = tl.load(inner + columns, mask=real, other=0.0)
        queries = tiles.load_rows(q, first, high, stride_q, M, HEAD_SIZE, D)
        up = tiles.load_rows(upstream, first, high, stride_upstream, M, HEAD_SIZE, D)
        # Transposed, [keys, queries]: both products below then take their left side as it was computed.
        softmax, gradient, weights = _probabilities(
            keys, queries, values, up, seen, rows[:, None] - columns[None, :], hashed[None, :],
            (rows - row_begin)[:, None], query_lse[None, :], multiplier[None, :], scale, threshold, bias,
            HAS_BIAS, DROPOUT, PRECISION,
        )  # fmt: skip
        grad_values = dot(weights.to(up.dtype), up, grad_values, PRECISION)
        change = tl.where(seen, softmax * (gradient - query_inner[None, :]), 0.0)
        grad_keys = dot(change.to(queries.dtype), queries, grad_keys, PRECISION)
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
    """Gradients of keys and values, after query_gradient_kernel. Grid: tiles of N keys times heads."""
    head = tl.program_id(0) % heads
    first = tl.program_id(0) // heads * N
    rows, real, row_begin, row_end, _, low, high = tiles.tile(first, tokens, sentence, begin, end, N)
    threshold = threshold.to(tl.uint32, bitcast=True)
    if HAS_BIAS:
        bias += head.to(tl.int64) * bias_columns + bias_columns // 2
    q += head.to(tl.int64) * head_stride_q
    upstream += head.to(tl.int64) * head_stride_upstream
    lse += head
    inner += head.to(tl.int64) * tokens
    keys = tiles.load_rows(k + head.to(tl.int64) * head_stride_k, first, tokens, stride_k, N, HEAD_SIZE, D)
    values = tiles.load_rows(v + head.to(tl.int64) * head_stride_v, first, tokens, stride_v, N, HEAD_SIZE, D)
    stride_out = heads * HEAD_SIZE
    grad_k += head * HEAD_SIZE
    grad_v += head * HEAD_SIZE

    grad_keys, grad_values = _key_gradients(
        keys, values, q, upstream, gate, sentence, begin, lse, inner, stride_q, stride_upstream, low, high,
        rows, row_begin, row_end, head, heads, scale, hash_start, threshold, keep_scale, bias,
        M, N, HEAD_SIZE, D, HAS_BIAS, HAS_GATE, DROPOUT, PRECISION,
    )  # fmt: skip
    if not tiles.any_nan(grad_keys + grad_values):
        tiles.store_rows(grad_k, grad_keys, first, real, stride_out, N, HEAD_SIZE, D)
        tiles.store_rows(grad_v, grad_values, first, real, stride_out, N, HEAD_SIZE, D)
    else:
        while low < high:
            stop = tl.load(end + low)
            grad_keys, grad_values = _key_gradients(
                keys, values, q, upstream, gate, sentence, begin, lse, inner, stride_q, stride_upstream, low, stop,
                rows, row_begin, row_end, head, heads, scale, hash_start, threshold, keep_scale, bias,
                M, N, HEAD_SIZE, D, HAS_BIAS, HAS_GATE, DROPOUT, PRECISION,
            )  # fmt: skip
            mine = real & (row_begin == low)
            tiles.store_rows(grad_k, grad_keys, first, mine, stride_out, N, HEAD_SIZE, D)
            tiles.store_rows(grad_v, grad_values, first, mine, stride_out, N, HEAD_SIZE, D)
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
    """Parts of the bias's gradient, after query_gradient_kernel. Grid: chunks times heads."""
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
        rows, real, row_begin, row_end, row_sentence, low, high = tiles.tile(first, tokens, sentence, begin, end, N)
        hashed, gates = tiles.factors(
            gate, hash_start, row_sentence, rows - row_begin, real, head, heads, HAS_GATE, DROPOUT
        )
        multiplier = keep_scale * gates
        row_lse = tl.load(lse + rows.to(tl.int64) * heads, mask=real, other=0.0) * tiles.LOG2E
        row_inner = tl.load(inner + rows, mask=real, other=0.0)
        queries = tiles.load_rows(q, first, tokens, stride_q, N, HEAD_SIZE, D)
        up = tiles.load_rows(upstream, first, tokens, stride_upstream, N, HEAD_SIZE, D)
        for start in range(low, high, N):
            columns, seen = tiles.step(start, row_begin, row_end, N)
            softmax, gradient, _ = _probabilities(
                queries, tiles.load_rows(k, start, high, stride_k, N, HEAD_SIZE, D),
                up, tiles.load_rows(v, start, high, stride_v, N, HEAD_SIZE, D),
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
    """The sums of gate_rows over the tokens of each sentence. Grid: sentences times heads."""
    head = tl.program_id(0) % heads
    sentence = tl.program_id(0) // heads
    low = tl.load(cu_lengths + sentence)
    high = tl.load(cu_lengths + sentence + 1)
    sums = tl.zeros([N], tl.float32)
    for first in range(low, high, N):
        rows = first + tl.arange(0, N)
        sums += tl.load(gate_rows + head.to(tl.int64) * tokens + rows, mask=rows < high, other=0.0)
    tl.store(grad_gate + tl.program_id(0).to(tl.int64), tl.sum(sums, 0))
