"""The product of two tiles, which all Triton kernels are built on."""

import triton
import triton.language as tl

from sparsecse.kernels.triton_support import interpreting

# Triton 3.9's interpreter multiplies the bits of bfloat16 as integers.
WIDEN = tl.constexpr(interpreting())


@triton.jit
def dot(a, b, accumulator, PRECISION: tl.constexpr):
    """a [M, K] times b [K, N], plus accumulator [M, N] unless it is None. PRECISION: of float32, "ieee" or "tf32"."""
    if WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, accumulator, input_precision=PRECISION)
