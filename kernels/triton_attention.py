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

import torch
import triton
from torch import Tensor

from sparsecse.kernels import reference
from sparsecse.kernels.reference import AttentionInputs, Gradients
from sparsecse.kernels.token_maps import token_maps
from sparsecse.kernels.triton_attention_backward import (
    bias_gradient_kernel,
    gate_gradient_kernel,
    key_gradient_kernel,
    query_gradient_kernel,
)
from sparsecse.kernels.triton_attention_forward import forward_kernel
from sparsecse.kernels.triton_support import (
    ConfigTable,
    LaunchConfig,
    architecture,
    choose_config,
    device_guard,
)

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

    def __init__(self, x: AttentionInputs) -> None:
        self.tokens, self.heads, head_size = x.query.shape
        maps = token_maps(x.cu_lengths, self.tokens)
        # As torch's own products do, float32 takes tensor cores only where the user allowed it.
        precision = "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
        self.shape: Shape = (
            precision if x.query.dtype == torch.float32 else "half",
            max(32, triton.next_power_of_2(head_size)),
        )
        q, k, v = (_aligned(y, self.shape[1]) for y in x[:3])
        self.arch = architecture(x.query.device)
        self.arguments = {
            "q": q,
            "k": k,
            "v": v,
            "bias": None if x.bias is None else x.bias.contiguous(),
            "gate": None if x.gate is None else x.gate.contiguous(),
            "sentence": maps.sentence,
            "begin": maps.begin,
            "end": maps.end,
            "stride_q": q.stride(0),
            "head_stride_q": q.stride(1),
            "stride_k": k.stride(0),
            "head_stride_k": k.stride(1),
            "stride_v": v.stride(0),
            "head_stride_v": v.stride(1),
            "bias_columns": 0 if x.bias is None else x.bias.shape[1],
            "tokens": self.tokens,
            "heads": self.heads,
            "scale": x.scale,
            "hash_start": _signed(reference.mask_hash(x.seed)),
            "threshold": _signed(int(x.dropout * 2.0**32)),
            "keep_scale": 1.0 / (1.0 - x.dropout),
            "HEAD_SIZE": head_size,
            "D": self.shape[1],
            "HAS_BIAS": x.bias is not None,
            "HAS_GATE": x.gate is not None,
            "DROPOUT": x.dropout > 0,
            "PRECISION": precision,
        }

    def config(self, table: ConfigTable) -> LaunchConfig:
        return choose_config(table, self.arch, self.shape)

    def programs(self, tile: int) -> tuple[int]:
        return (triton.cdiv(self.tokens, tile) * self.heads,)


def attention_forward(x: AttentionInputs) -> tuple[Tensor, Tensor]:
    """As `reference.attention_forward`, to which heads wider than MAX_HEAD_SIZE are left. No float64.

    Products of float32 take tensor cores, and lose 13 bits, only where `torch.backends.cuda.matmul.fp32_precision` is
    "tf32". Returns [tokens, heads, head_size] and lse, [tokens, heads] in float32.
    """
    if x.query.shape[2] > MAX_HEAD_SIZE:
        return reference.attention_forward(x)
    out = x.query.new_empty(x.query.shape)
    lse = x.query.new_empty(x.query.shape[:2], dtype=torch.float32)
    if x.query.numel() == 0:
        return out, lse
    with device_guard(x.query):
        launch = _Launch(x)
        config = launch.config(FORWARD)
        forward_kernel[launch.programs(config["M"])](**launch.arguments, out=out, lse=lse, **config.arguments())
    return out, lse


def attention_backward(x: AttentionInputs, out: Tensor, lse: Tensor, upstream: Tensor) -> Gradients:
    """As `reference.attention_backward`: gradients of query, key, value, bias and gate. Deterministic."""
    if x.query.shape[2] > MAX_HEAD_SIZE:
        return reference.attention_backward(x, out, lse, upstream)
    grads = x.new_gradients(lse)
    if x.query.numel() == 0:
        return grads
    with device_guard(x.query):
        launch = _Launch(x)
        upstream = _aligned(upstream, launch.shape[1])
        by_token = lse.new_empty((2 if x.gate is not None else 1, launch.heads, launch.tokens))
        shared = launch.arguments | {
            "lse": lse.contiguous(),
            "upstream": upstream,
            "stride_upstream": upstream.stride(0),
            "head_stride_upstream": upstream.stride(1),
            "inner": by_token[0],
        }

        config = launch.config(QUERY_GRADIENT)
        gate_rows = None if x.gate is None else by_token[1]
        query_gradient_kernel[launch.programs(config["M"])](
            **shared, out=out.contiguous(), grad_q=grads.query, gate_rows=gate_rows, **config.arguments()
        )
        config = launch.config(KEY_GRADIENT)
        key_gradient_kernel[launch.programs(config["N"])](
            **shared, grad_k=grads.key, grad_v=grads.value, **config.arguments()
        )
        if x.bias is not None:
            config = launch.config(BIAS_GRADIENT)
            chunks = min(BIAS_CHUNKS, triton.cdiv(launch.tokens, config["N"]))
            partial = lse.new_zeros((chunks, *x.bias.shape))
            del shared["HAS_BIAS"]
            bias_gradient_kernel[(chunks * launch.heads,)](**shared, partial=partial, **config.arguments())
            torch.sum(partial, 0, out=grads.bias)
        if grads.gate.numel():
            gate_gradient_kernel[(grads.gate.numel(),)](
                gate_rows, x.cu_lengths, grads.gate, launch.tokens, launch.heads, N=GATE_TILE
            )
    return grads
