"""Uniformity over all pairs, value and gradient, in Triton. See `triton_pairs` for how the work is laid out.

With e_ij = -t ||x_i - x_j||^2, w_ij = exp(e_ij + shift) and S their sum over i < j:
  value   = log(2 S / (n (n - 1))) - shift
  dU/dx_i = -2t / S * (sum_j w_ij x_i - sum_j w_ij x_j)
The shift is 0 unless norms about the mean allow an exponent below -SAFE_EXPONENT; then it is minus the largest
exponent, for which every pair is visited once more. The decision is taken on the device: nothing here waits for it.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsecse.kernels import triton_pairs as pairs
from sparsecse.kernels.reference import SAFE_EXPONENT
from sparsecse.kernels.triton_support import ConfigTable, LaunchConfig, device_guard

# Unmeasured. Square tiles: the tiles below the diagonal of a block are mirrored from those above it.
PAIR_CONFIGS: ConfigTable = {
    (80, "bf16"): LaunchConfig({"BLOCK": 128, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    (80, "tf32"): LaunchConfig({"BLOCK": 128, "BLOCK_K": 16}, num_warps=8, num_stages=3),
    (80, "ieee"): LaunchConfig({"BLOCK": 64, "BLOCK_K": 16}, num_warps=4, num_stages=2),
    # Two programs on one multiprocessor hide each other's epilogues; each has 128 registers for that and 96 KiB.
    (90, "bf16"): LaunchConfig({"BLOCK": 128, "BLOCK_K": 64}, num_warps=8, num_stages=3, maxnreg=128),
    (90, "tf32"): LaunchConfig({"BLOCK": 128, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    (90, "ieee"): LaunchConfig({"BLOCK": 64, "BLOCK_K": 16}, num_warps=4, num_stages=2),
}


@triton.jit
def _exponents(
    x,  # [padded, d] operand
    norms,  # [padded] squared norms of its rows
    first_row,
    first_column,
    count,
    d,
    rate,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """-rate ||x_i - x_j||^2 of a tile of pairs, -inf for a vector with itself and for vectors that do not exist."""
    product = pairs.tile_product(x, x, first_row, first_column, d, BLOCK, BLOCK, BLOCK_K, PRECISION)
    rows = first_row + tl.arange(0, BLOCK)
    columns = first_column + tl.arange(0, BLOCK)
    squared = tl.load(norms + rows)[:, None] + tl.load(norms + columns)[None, :] - 2.0 * product
    # Not tl.maximum, which may drop a NaN.
    squared = tl.where(squared < 0.0, 0.0, squared)
    exponents = -rate * squared
    # Most tiles have nothing to mask, and this costs as much as the rest of the epilogue.
    if (first_row == first_column) | (first_column + BLOCK > count):
        pair = (rows[:, None] != columns[None, :]) & (rows[:, None] < count) & (columns[None, :] < count)
        exponents = tl.where(pair, exponents, float("-inf"))
    return exponents


@triton.jit(do_not_specialize=["count"])
def nearest_kernel(
    x,  # [padded, d] operand
    norms,  # [padded] squared norms of its rows
    lowest,  # scalar: no exponent is below this
    largest,  # [tiles, tiles] result: the largest exponent of each tile on or above the diagonal
    count,
    d,
    rate,
    SAFE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Does nothing where no exponent can be below SAFE. Grid: (column tiles, row tiles)."""
    row_tile = tl.program_id(1)
    column_tile = tl.program_id(0)
    if (column_tile >= row_tile) & (tl.load(lowest) < SAFE):
        exponents = _exponents(
            x, norms, row_tile * BLOCK, column_tile * BLOCK, count, d, rate, BLOCK, BLOCK_K, PRECISION
        )
        tl.store(largest + row_tile * tl.num_programs(0) + column_tile, tl.max(exponents))


@triton.jit(do_not_specialize=["count", "tiles"])
def weights_kernel(
    x,  # [padded, d] operand
    norms,  # [padded] squared norms of its rows
    shift,  # scalar, added to every exponent
    totals,  # [tiles, tiles] result: sums of the weights of each tile, each pair once
    scratch,  # [block, stride] result: the weights of this block of pairs, or None
    row_sums,  # [slots, stride] result: sums of the weights of each row in each tile of columns, or None
    column_sums,  # the same the other way round; row_sums again for a block on the diagonal
    first_row,
    first_column,
    count,
    tiles,
    stride,
    d,
    rate,
    PRODUCT: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The weights of a block of pairs, tiles below the diagonal left to their twins; grid: (column, row tiles)."""
    row_tile = tl.program_id(1)
    column_tile = tl.program_id(0)
    global_row = first_row + row_tile * BLOCK
    global_column = first_column + column_tile * BLOCK
    if global_column >= global_row:
        exponents = _exponents(x, norms, global_row, global_column, count, d, rate, BLOCK, BLOCK_K, PRECISION)
        weights = tl.exp2(exponents + tl.load(shift))
        place = (global_row // BLOCK).to(tl.int64) * tiles + global_column // BLOCK
        total = tl.sum(weights)
        tl.store(totals + place, tl.where(global_row == global_column, 0.5 * total, total))
        if scratch is not None:
            stored = pairs.rounded(weights, PRODUCT)
            weights = stored.to(tl.float32)
            rows = row_tile * BLOCK + tl.arange(0, BLOCK)
            columns = column_tile * BLOCK + tl.arange(0, BLOCK)
            tl.store(scratch + rows[:, None] * stride + columns[None, :], stored)
            tl.store(row_sums + column_tile * stride + rows, tl.sum(weights, axis=1))
            if global_column != global_row:
                tl.store(column_sums + row_tile * stride + columns, tl.sum(weights, axis=0))
                if first_row == first_column:
                    tl.store(scratch + columns[None, :] * stride + rows[:, None], stored)


def uniformity(x: Tensor, t: float = 2.0) -> Tensor:
    """x: [N, d] in float32, bfloat16 or float16; returns a float32 scalar. See `sparsecse.kernels.uniformity`."""
    with device_guard(x):
        return _uniformity(x, t, None)


def uniformity_value_and_grad(x: Tensor, t: float = 2.0) -> tuple[Tensor, Tensor]:
    """The same and its gradient [N, d] in float32.

    Beside the gradient it takes one copy of x, in bfloat16 for bfloat16 and in float32 else, and a scratch of at most
    max(64 KiB, 8 N d bytes) and at most 32 MiB.
    """
    grad = pairs.empty_gradient(x)
    with device_guard(x):
        value = _uniformity(x, t, grad)
        return value, pairs.finished_gradient(grad, x)


def _uniformity(x: Tensor, t: float, grad: Tensor | None) -> Tensor:
    operand, norms, lowest = _operand(x.detach(), t)
    n, padded = operand.count, operand.values.shape[0]
    config = operand.config(PAIR_CONFIGS)
    tiles = padded // config["BLOCK"]
    # Exponents are of 2 from here on.
    rate = t / math.log(2.0)
    totals = torch.zeros(tiles, tiles, device=x.device)
    shift = _shift(operand, norms, lowest, rate, config)

    side = pairs.block_side((operand,)) if grad is not None else padded
    slots = side // config["BLOCK"]
    scratch = sums = None
    if grad is not None:
        scratch = torch.empty(side, side, dtype=operand.values.dtype, device=x.device)
        sums = (torch.empty(slots, side, device=x.device), torch.empty(slots, side, device=x.device))
    for i, rows in enumerate(pairs.blocks(operand, side)):
        for columns in pairs.blocks(operand, side)[i:]:
            diagonal = rows == columns
            shape = (len(columns) // config["BLOCK"], len(rows) // config["BLOCK"])
            weights_kernel[shape](
                operand.values,
                norms,
                shift,
                totals,
                scratch,
                sums[0] if sums else None,
                sums[0 if diagonal else 1] if sums else None,
                rows.start,
                columns.start,
                n,
                tiles,
                side,
                operand.values.shape[1],
                rate,
                PRODUCT=operand.precision,
                PRECISION=pairs.dot_precision(operand.precision),
                **config.arguments(),
            )
            if grad is not None and scratch is not None:
                pairs.accumulate(
                    scratch, operand, rows, grad, operand, columns, None if diagonal else grad, sums, shape
                )
    total = totals.sum(dtype=torch.float64)
    if grad is not None:
        grad.mul_((-2.0 * t / total).float())
    return ((2.0 * total / (n * (n - 1))).log() - shift.double() * math.log(2.0)).float()


def _operand(x: Tensor, t: float) -> tuple[pairs.Operand, Tensor, Tensor]:
    """The vectors, their squared norms, and a bound that no exponent of e lies below.

    Distances do not move with the origin, and float32 rounds them least about the mean. bfloat16 and float16 stay as
    they are: products take them exactly, which they would not take their differences to the mean.
    """
    operand = pairs.empty_operand(x)
    norms = torch.zeros(operand.values.shape[0], device=x.device)
    mean = x.mean(dim=0, dtype=torch.float32)
    spread = []
    for rows in pairs.row_chunks(operand.count):
        values = x[rows].float()
        centred = values - mean
        spread.append(centred.square().sum(dim=1).amax())
        kept = pairs.fill(operand, rows, centred if x.dtype == torch.float32 else values)
        norms[rows] = kept.square().sum(dim=1)
    return operand, norms, -4.0 * t * torch.stack(spread).amax()


def _shift(operand: pairs.Operand, norms: Tensor, lowest: Tensor, rate: float, config: LaunchConfig) -> Tensor:
    """What to add to every exponent of 2: 0, or minus the largest where all of them may be too low; NaN for NaN."""
    tiles = operand.values.shape[0] // config["BLOCK"]
    largest = torch.full((tiles, tiles), -torch.inf, device=norms.device)
    nearest_kernel[tiles, tiles](
        operand.values,
        norms,
        lowest,
        largest,
        operand.count,
        operand.values.shape[1],
        rate,
        SAFE=-SAFE_EXPONENT,
        PRECISION=pairs.dot_precision(operand.precision),
        **config.arguments(),
    )
    # 0 * lowest is NaN where anything in x is not finite.
    return torch.where(lowest < -SAFE_EXPONENT, -largest.amax(), 0.0) + 0.0 * lowest
