"""What the Triton kernels over all pairs of vectors share.

Two matrix products make up value and gradient: the dot products of all pairs, and the weights that follow from them
times the vectors. d is too wide (384 to 1024) for one program to hold the gradient of a tile of rows while the weights
pass by, as flash attention does with its heads of 64 or 128: each slice of d would compute the dot products once more.
Here the weights of a square block of pairs, at most 4096 x 4096, go through a scratch buffer that fits the L2 cache:

    for every block of pairs, one after the other on the stream:
        weights kernel     scratch = weights of the block, from dot products        (each pair once where symmetric)
        accumulate kernel  out_rows += scratch x_columns, out_columns += scratch^T x_rows

Both are plain tiled products with an epilogue. Every program owns the tile it writes and blocks follow each other in
order, so there are no atomics, and results repeat bit for bit. It costs 3 N^2 d flops for symmetric pairs where owning
rows throughout costs 4 N^2 d or more, and the scratch is at most twice the size of the vectors in float32.

Operands are padded with zeros to multiples of 128, so that inner loops have no masks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsecse.kernels.triton_dot import dot
from sparsecse.kernels.triton_support import (
    ConfigTable,
    LaunchConfig,
    architecture,
    choose_config,
    product_precision,
)

PADDING = 128
# Half the L2 cache of an H100 (50 MB) and more, and nearly all that an A100 (40 MB) can share with the vectors.
SCRATCH_BYTES = 32 * 2**20
ROW_CHUNK = 8192

# Shape classes are the precisions of `product_precision`. Unmeasured: chosen to keep everything in registers.
ACCUMULATE_CONFIGS: ConfigTable = {
    (80, "bf16"): LaunchConfig({"BLOCK_M": 128, "BLOCK_D": 128, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    (80, "tf32"): LaunchConfig({"BLOCK_M": 128, "BLOCK_D": 128, "BLOCK_K": 16}, num_warps=8, num_stages=3),
    (80, "ieee"): LaunchConfig({"BLOCK_M": 64, "BLOCK_D": 64, "BLOCK_K": 16}, num_warps=4, num_stages=2),
    (90, "bf16"): LaunchConfig({"BLOCK_M": 128, "BLOCK_D": 128, "BLOCK_K": 64}, num_warps=8, num_stages=3),
    (90, "tf32"): LaunchConfig({"BLOCK_M": 128, "BLOCK_D": 128, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    (90, "ieee"): LaunchConfig({"BLOCK_M": 64, "BLOCK_D": 64, "BLOCK_K": 16}, num_warps=4, num_stages=2),
}


@triton.jit
def tile_product(
    a,  # [padded, d] operand
    b,  # [padded, d] operand
    first_row,  # of a
    first_column,  # row of b
    d,  # a multiple of PADDING
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Dot products of BLOCK_M rows of a with BLOCK_N rows of b, in float32."""
    rows = (first_row + tl.arange(0, BLOCK_M)).to(tl.int64)
    columns = (first_column + tl.arange(0, BLOCK_N)).to(tl.int64)
    depth = tl.arange(0, BLOCK_K)
    a_tile = a + rows[:, None] * d + depth[None, :]
    b_tile = b + columns[None, :] * d + depth[:, None]
    product = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for _ in range(0, d, BLOCK_K):
        product = dot(tl.load(a_tile), tl.load(b_tile), product, PRECISION)
        a_tile += BLOCK_K
        b_tile += BLOCK_K
    return product


@triton.jit
def rounded(
    weights,  # float32
    PRODUCT: tl.constexpr,
):
    """The weights as the second product takes them, so that sums of weights agree with it: bfloat16, or float32 whose
    last 13 bits are zero where the product would cut them off (tf32)."""
    if PRODUCT == "bf16":
        result = weights.to(tl.bfloat16)
    elif PRODUCT == "tf32":
        bits = weights.to(tl.int32, bitcast=True)
        nearest = ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
        # The bits of a NaN could carry over into its sign and make it a zero.
        result = tl.where(weights == weights, nearest, weights)
    else:
        result = weights
    return result


@triton.jit
def _scratch_product(
    scratch,  # [block, stride] weights
    x,  # [block, d] operand of the side that is summed over
    first_row,  # of the result within its side
    first_d,
    extent,  # length of the sum, a multiple of BLOCK_K
    stride,
    d,
    TRANSPOSED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    rows = first_row + tl.arange(0, BLOCK_M)
    inner = tl.arange(0, BLOCK_K)
    if TRANSPOSED:
        weights_tile = scratch + inner[None, :] * stride + rows[:, None]
        step = BLOCK_K * stride
    else:
        weights_tile = scratch + rows[:, None] * stride + inner[None, :]
        step = BLOCK_K
    x_tile = x + inner[:, None] * d + first_d + tl.arange(0, BLOCK_D)[None, :]
    product = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    for _ in range(0, extent, BLOCK_K):
        product = dot(tl.load(weights_tile), tl.load(x_tile), product, PRECISION)
        weights_tile += step
        x_tile += BLOCK_K * d
    return product


@triton.jit
def _add_tile(
    product,  # [BLOCK_M, BLOCK_D]
    x,  # [block, d] operand of the result's side
    sums,  # [slots, stride] parts of the sums of the weights of each row, or None
    out,  # [count, width] float32
    first_row,
    first_d,
    count,
    slots,
    stride,
    d,
    width,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """out += product, or with sums out += sum * x - product."""
    rows = first_row + tl.arange(0, BLOCK_M)
    columns = first_d + tl.arange(0, BLOCK_D)
    if sums is not None:
        total = tl.zeros((BLOCK_M,), dtype=tl.float32)
        for slot in range(0, slots):
            total += tl.load(sums + slot * stride + rows)
        own = tl.load(x + rows[:, None] * d + columns[None, :]).to(tl.float32)
        product = total[:, None] * own - product
    place = out + rows[:, None] * width + columns[None, :]
    inside = (rows[:, None] < count) & (columns[None, :] < width)
    tl.store(place, tl.load(place, mask=inside, other=0.0) + product, mask=inside)


@triton.jit(do_not_specialize=["row_count", "column_count", "row_slots", "column_slots"])
def accumulate_kernel(
    scratch,  # [row_extent, stride] weights of one block of pairs
    x_rows,  # [row_extent, d] operand
    x_columns,  # [column_extent, d] operand
    row_sums,  # [slots, stride] see _add_tile, or None
    column_sums,  # the same for the columns
    out_rows,  # [row_count, width] float32
    out_columns,  # [column_count, width] float32
    row_count,  # vectors that exist
    column_count,
    row_extent,  # the same rounded up to PADDING
    column_extent,
    row_slots,
    column_slots,
    stride,
    d,
    width,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """out_rows += scratch x_columns and out_columns += scratch^T x_rows.

    Grid: (d tiles, row tiles), or (d tiles, row tiles + column tiles) for both.
    """
    first_d = tl.program_id(0) * BLOCK_D
    first = tl.program_id(1) * BLOCK_M
    if first < row_extent:
        product = _scratch_product(
            scratch, x_columns, first, first_d, column_extent, stride, d, False, BLOCK_M, BLOCK_D, BLOCK_K, PRECISION
        )
        _add_tile(
            product, x_rows, row_sums, out_rows, first, first_d, row_count, row_slots, stride, d, width,
            BLOCK_M, BLOCK_D,
        )  # fmt: skip
    else:
        first -= row_extent
        product = _scratch_product(
            scratch, x_rows, first, first_d, row_extent, stride, d, True, BLOCK_M, BLOCK_D, BLOCK_K, PRECISION
        )
        _add_tile(
            product, x_columns, column_sums, out_columns, first, first_d, column_count, column_slots, stride, d, width,
            BLOCK_M, BLOCK_D,
        )  # fmt: skip


def dot_precision(precision: str) -> str:
    """The `input_precision` of tl.dot; it says nothing about bfloat16 operands."""
    return "tf32" if precision == "tf32" else "ieee"


def round_up(size: int, multiple: int = PADDING) -> int:
    return -(-size // multiple) * multiple


@dataclass(frozen=True)
class Operand:
    """Vectors as the kernels take them.

    values: [rows and d rounded up to PADDING], bfloat16 or float32, zero beyond; count, width: without padding.
    """

    values: Tensor
    count: int
    width: int
    precision: str

    @property
    def arch(self) -> int:
        return architecture(self.values.device)

    def config(self, table: ConfigTable) -> LaunchConfig:
        return choose_config(table, self.arch, self.precision)

    def real(self, block: range) -> int:
        """How many vectors of a block of rows exist."""
        return min(block.stop, self.count) - block.start


def empty_operand(x: Tensor) -> Operand:
    """The operand of x, all zero yet."""
    precision = product_precision(x.dtype)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    values = torch.zeros(round_up(x.shape[0]), round_up(x.shape[1]), dtype=dtype, device=x.device)
    return Operand(values, x.shape[0], x.shape[1], precision)


def row_chunks(count: int) -> Iterator[slice]:
    """Rows that eager operations take at once, so that their temporaries stay small."""
    return (slice(i, min(i + ROW_CHUNK, count)) for i in range(0, count, ROW_CHUNK))


def fill(operand: Operand, rows: slice, values: Tensor) -> Tensor:
    """Writes float32 rows as the products take them, and returns them so rounded, in float32 and padded.

    Rounded to tf32 here, to nearest, so that norms and dot products belong to the same vectors: the matrix units would
    cut the bits off, and distances would be those of no vectors at all.
    """
    if operand.precision == "tf32":
        bits = (values.view(torch.int32) + 0x1000) & -0x2000
        values = torch.where(values.isnan(), values, bits.view(torch.float32))
    operand.values[rows, : operand.width] = values
    return operand.values[rows].float()


def empty_gradient(x: Tensor) -> Tensor:
    """Zeros to accumulate the gradient of x in, of a width whose rows can be written 16 bytes at once."""
    return torch.zeros(x.shape[0], round_up(x.shape[1], 16), dtype=torch.float32, device=x.device)


def finished_gradient(grad: Tensor, x: Tensor) -> Tensor:
    return grad[:, : x.shape[1]].contiguous()


def block_side(operands: tuple[Operand, ...]) -> int:
    """Vectors along one side of a block of pairs: its weights fit into the cache and take at most as many bytes as two
    float32 copies of all the vectors."""
    elements = sum(operand.count * operand.width for operand in operands) // len(operands)
    size = operands[0].values.element_size()
    budget = min(SCRATCH_BYTES, 2 * 4 * elements)
    longest = max(operand.values.shape[0] for operand in operands)
    return max(PADDING, min(longest, int((budget / size) ** 0.5) // PADDING * PADDING))


def blocks(operand: Operand, side: int) -> list[range]:
    padded = operand.values.shape[0]
    return [range(i, min(i + side, padded)) for i in range(0, padded, side)]


def accumulate(
    scratch: Tensor,
    rows_of: Operand,
    rows: range,
    out_rows: Tensor,
    columns_of: Operand,
    columns: range,
    out_columns: Tensor | None,
    sums: tuple[Tensor, Tensor] | None = None,
    slots: tuple[int, int] = (0, 0),
) -> None:
    """Adds the products of a block's weights to both gradients; to that of the rows alone where out_columns is None."""
    config = rows_of.config(ACCUMULATE_CONFIGS)
    d = rows_of.values.shape[1]
    tiles = len(rows) // config["BLOCK_M"] + (len(columns) // config["BLOCK_M"] if out_columns is not None else 0)
    accumulate_kernel[d // config["BLOCK_D"], tiles](
        scratch,
        rows_of.values[rows.start :],
        columns_of.values[columns.start :],
        sums[0] if sums else None,
        sums[1] if sums else None,
        out_rows[rows.start :],
        out_rows if out_columns is None else out_columns[columns.start :],
        rows_of.real(rows),
        columns_of.real(columns),
        len(rows),
        len(columns),
        slots[0],
        slots[1],
        scratch.stride(0),
        d,
        out_rows.shape[1],
        PRECISION=dot_precision(rows_of.precision),
        **config.arguments(),
    )
