"""What the Triton kernels of attention share: tiles of rows, the dropout hash, and scores of one tile."""

import triton
import triton.language as tl

from sparsecse.kernels import reference
from sparsecse.kernels.triton_dot import dot

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
MIX_FIRST, MIX_SECOND = tl.constexpr(reference.MIX_FIRST), tl.constexpr(reference.MIX_SECOND)


@triton.jit
def load_rows(x, first, limit, stride, ROWS: tl.constexpr, HEAD_SIZE: tl.constexpr, COLUMNS: tl.constexpr):
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
def store_rows(x, values, first, keep, stride, ROWS: tl.constexpr, HEAD_SIZE: tl.constexpr, COLUMNS: tl.constexpr):
    """The rows of `values` marked in `keep` [ROWS] go to rows first to first + ROWS of x."""
    columns = tl.arange(0, COLUMNS)
    pointers = x + tl.cast(first, tl.int64) * stride + tl.arange(0, ROWS)[:, None] * stride + columns[None, :]
    keep = keep[:, None]
    if HEAD_SIZE < COLUMNS:
        keep = keep & (columns < HEAD_SIZE)[None, :]
    tl.store(pointers, values.to(x.dtype.element_ty), mask=keep)


@triton.jit
def mix(x):
    """One step of `reference.mask_hash`, for uint32."""
    x = (x ^ (x >> 16)) * MIX_FIRST
    x = (x ^ (x >> 15)) * MIX_SECOND
    return x ^ (x >> 16)


@triton.jit
def tile(first, tokens, sentence, begin, end, ROWS: tl.constexpr):
    """The tokens first to first + ROWS, of which those before `tokens` are real, and what they see.

    Returns their numbers, which are real, where the sentence of each begins and ends and which one it is, all [ROWS];
    and where the first one's sentence begins and the last one's ends, the range to walk. What a kernel leaves unused
    is not loaded.
    """
    rows = first + tl.arange(0, ROWS)
    real = rows < tokens
    row_begin = tl.load(begin + rows, mask=real, other=0)
    row_end = tl.load(end + rows, mask=real, other=0)
    low = tl.load(begin + first)
    high = tl.load(end + tl.minimum(first + ROWS, tokens) - 1)
    return rows, real, row_begin, row_end, tl.load(sentence + rows, mask=real, other=0), low, high


@triton.jit
def factors(gate, hash_start, sentence, position, real, head, heads, HAS_GATE: tl.constexpr, DROPOUT: tl.constexpr):
    """The dropout hash up to the key of queries, by sentence and position in it, and their gate, 1 without gates."""
    hashed = position.to(tl.uint32)
    if DROPOUT:
        # hash_start has both words of the seed in it.
        start = mix(hash_start.to(tl.uint32, bitcast=True) ^ sentence.to(tl.uint32))
        hashed = mix(mix(start ^ head.to(tl.uint32)) ^ hashed)
    gates = tl.full(position.shape, 1.0, tl.float32)
    if HAS_GATE:
        gates = tl.load(gate + sentence.to(tl.int64) * heads + head, mask=real, other=0.0).to(tl.float32)
    return hashed, gates


@triton.jit
def step(first, begin, end, COLUMNS: tl.constexpr):
    """The tokens first to first + COLUMNS, and which of them the rows see whose sentences begin and end there."""
    columns = first + tl.arange(0, COLUMNS)
    return columns, (columns[None, :] >= begin[:, None]) & (columns[None, :] < end[:, None])


@triton.jit
def any_nan(x):
    return tl.max((x != x).to(tl.int32)) > 0


@triton.jit
def scores(
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
    logits = dot(left, tl.trans(right), None, PRECISION) * (scale * LOG2E)
    if HAS_BIAS:
        logits += tl.load(bias + distance, mask=seen, other=0.0) * LOG2E
    return tl.where(seen, logits, float("-inf"))
