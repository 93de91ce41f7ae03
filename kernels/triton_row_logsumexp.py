"""Row-wise log-sum-exp of scaled dot products, forward and backward, in Triton. See `triton_pairs` for the layout.

  lse_i     = log sum_j exp(s_ij), s_ij = scale a_i . b_j
  w_ij      = scale u_i exp(s_ij - lse_i), u the upstream gradient
  grad_a    = w b, grad_b = w^T a

Forward, a program keeps a running maximum and sum for a tile of rows; the columns are shared out where there are too
few rows to fill the device. Backward, the weights of one block after another go through the scratch buffer.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsecse.kernels import triton_pairs as pairs
from sparsecse.kernels.triton_support import ConfigTable, LaunchConfig, device_guard

LOG2E = math.log2(math.e)
# Programs of the forward pass that fill a device: two for each of the 132 multiprocessors of an H100.
PROGRAMS = 264

# Unmeasured: chosen to keep everything in registers.
ROW_CONFIGS: ConfigTable = {
    (80, "bf16"): LaunchConfig({"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    (80, "tf32"): LaunchConfig({"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 16}, num_warps=8, num_stages=3),
    (80, "ieee"): LaunchConfig({"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 16}, num_warps=4, num_stages=2),
    (90, "bf16"): LaunchConfig({"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64}, num_warps=8, num_stages=3),
    (90, "tf32"): LaunchConfig({"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    # Without a limit ptxas settles for fewer registers than the weights kernel needs, and spills.
    (90, "ieee"): LaunchConfig({"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 16}, num_warps=4, num_stages=2, maxnreg=168),
}


@triton.jit(do_not_specialize=["row_count", "column_count", "columns_each"])
def row_logsumexp_kernel(
    a,  # [row_count rounded up, d] operand
    b,  # [column_count rounded up, d] operand
    parts,  # [splits, row_count] result: log-sum-exp over the columns of each split
    row_count,
    column_count,
    columns_each,  # columns of a split, a multiple of BLOCK_N
    d,
    scale,  # divided by log 2: exponents are of 2
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid: (row tiles, splits)."""
    first_row = tl.program_id(0) * BLOCK_M
    split = tl.program_id(1)
    largest = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    end = tl.minimum((split + 1) * columns_each, column_count)
    for first_column in range(split * columns_each, end, BLOCK_N):
        product = pairs.tile_product(a, b, first_row, first_column, d, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION)
        columns = first_column + tl.arange(0, BLOCK_N)
        exponents = tl.where(columns[None, :] < column_count, scale * product, float("-inf"))
        larger = tl.maximum(largest, tl.max(exponents, axis=1))
        # Where everything so far is -inf there is nothing to rescale, and -inf - -inf would be NaN.
        origin = tl.where(larger == float("-inf"), 0.0, larger)
        total = total * tl.exp2(largest - origin) + tl.sum(tl.exp2(exponents - origin[:, None]), axis=1)
        largest = larger
    rows = first_row + tl.arange(0, BLOCK_M)
    lse = 0.6931471805599453 * (largest + tl.log2(total))
    tl.store(parts + split.to(tl.int64) * row_count + rows, lse, mask=rows < row_count)


@triton.jit(do_not_specialize=["row_count", "column_count", "first_row", "first_column"])
def row_weights_kernel(
    a,  # [row_count rounded up, d] operand
    b,  # [column_count rounded up, d] operand
    lse,  # [row_count] float32
    upstream,  # [row_count] float32
    scratch,  # [block, stride] result: w of this block
    first_row,
    first_column,
    row_count,
    column_count,
    stride,
    d,
    scale,
    LOG2E: tl.constexpr,
    PRODUCT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid: (column tiles, row tiles)."""
    row = tl.program_id(1) * BLOCK_M
    column = tl.program_id(0) * BLOCK_N
    product = pairs.tile_product(a, b, first_row + row, first_column + column, d, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION)
    rows = first_row + row + tl.arange(0, BLOCK_M)
    columns = first_column + column + tl.arange(0, BLOCK_N)
    largest = tl.load(lse + rows, mask=rows < row_count, other=0.0) * LOG2E
    factor = tl.load(upstream + rows, mask=rows < row_count, other=0.0) * scale
    weights = tl.exp2(product * (scale * LOG2E) - largest[:, None]) * factor[:, None]
    weights = tl.where(columns[None, :] < column_count, weights, 0.0)
    place = scratch + (row + tl.arange(0, BLOCK_M))[:, None] * stride + (column + tl.arange(0, BLOCK_N))[None, :]
    tl.store(place, pairs.rounded(weights, PRODUCT))


def row_logsumexp(a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    """a: [N, d], b: [M, d] in float32, bfloat16 or float16; returns [N] in float32."""
    with device_guard(a):
        rows_of, columns_of = _operand(a.detach()), _operand(b.detach())
        config = rows_of.config(ROW_CONFIGS)
        row_tiles = rows_of.values.shape[0] // config["BLOCK_M"]
        column_tiles = -(-columns_of.count // config["BLOCK_N"])
        tiles_each = -(-column_tiles // max(1, min(column_tiles, PROGRAMS // row_tiles)))
        splits = -(-column_tiles // tiles_each)
        parts = torch.empty(splits, rows_of.count, device=a.device)
        row_logsumexp_kernel[row_tiles, splits](
            rows_of.values,
            columns_of.values,
            parts,
            rows_of.count,
            columns_of.count,
            tiles_each * config["BLOCK_N"],
            rows_of.values.shape[1],
            scale * LOG2E,
            PRECISION=pairs.dot_precision(rows_of.precision),
            **config.arguments(),
        )
        return parts[0] if splits == 1 else parts.logsumexp(dim=0)


def row_logsumexp_grad(a: Tensor, b: Tensor, lse: Tensor, upstream: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Gradients of `row_logsumexp` for a and b, [N, d] and [M, d] in float32; lse: [N], its result; upstream: [N]."""
    grad_a, grad_b = pairs.empty_gradient(a), pairs.empty_gradient(b)
    lse, upstream = lse.detach().contiguous(), upstream.detach().float().contiguous()
    with device_guard(a):
        rows_of, columns_of = _operand(a.detach()), _operand(b.detach())
        config = rows_of.config(ROW_CONFIGS)
        side = pairs.block_side((rows_of, columns_of))
        scratch = torch.empty(side, side, dtype=rows_of.values.dtype, device=a.device)
        for rows in pairs.blocks(rows_of, side):
            for columns in pairs.blocks(columns_of, side):
                row_weights_kernel[len(columns) // config["BLOCK_N"], len(rows) // config["BLOCK_M"]](
                    rows_of.values,
                    columns_of.values,
                    lse,
                    upstream,
                    scratch,
                    rows.start,
                    columns.start,
                    rows_of.count,
                    columns_of.count,
                    side,
                    rows_of.values.shape[1],
                    scale,
                    LOG2E=LOG2E,
                    PRODUCT=rows_of.precision,
                    PRECISION=pairs.dot_precision(rows_of.precision),
                    **config.arguments(),
                )
                pairs.accumulate(scratch, rows_of, rows, grad_a, columns_of, columns, grad_b)
        return pairs.finished_gradient(grad_a, a), pairs.finished_gradient(grad_b, b)


def _operand(x: Tensor) -> pairs.Operand:
    operand = pairs.empty_operand(x)
    for rows in pairs.row_chunks(operand.count):
        pairs.fill(operand, rows, x[rows].float())
    return operand
