"""Which implementation of a kernel runs: the one place that knows.

`SPARSECSE_KERNELS` = `auto` (the default), `native` or `triton` (an error where they cannot run) or `reference` (plain
PyTorch).
`SPARSECSE_CPU` = `portable`, `avx2`, `avx512`, `avx512vnni`, `avx512bf16` or `amx` holds the native CPU kernels to that
instruction set or the best one below it that the machine has.
"""

import math
import os
import sys
import time
import warnings
from functools import lru_cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from sparsecse.errors import InputError
from sparsecse.kernels import reference
from sparsecse.kernels.triton_support import (
    ARCHITECTURES,
    architecture,
    interpreting,
    product_precision,
    triton_installed,
)

# From how many pairs of vectors on Triton takes over from PyTorch on a GPU, by how products are taken. NOT MEASURED YET
# (`benchmarks/gpu.py` will): a guess in favour of PyTorch, to which fused losses elsewhere lose at small shapes. Exact
# float32 has no matrix units to run on, and cuBLAS, which the reference calls, is known for better products there.
TRITON_FROM_PAIRS = {"bf16": 1024**2, "tf32": 1024**2, "ieee": math.inf}


def how_to_get_native() -> str:
    """What to do where the compiled extension is missing."""
    if sys.platform == "win32":
        return "use Linux (WSL) or macOS, which have them"
    return "where g++ or clang++ is present, pip install --force-reinstall --no-deps sparsecse builds them"


@lru_cache(maxsize=1)
def native_extension() -> ModuleType | None:
    """The compiled extension, or None (and one warning) where the install could not build it."""
    try:
        # By name: the extension has no stubs, and a type checker must pass where it is not built.
        return import_module("sparsecse._native")
    except ImportError as error:
        warnings.warn(
            f"sparsecse computes through PyTorch, slower, as its compiled kernels cannot be loaded ({error}); "
            f"{how_to_get_native()}.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def implementation(x: Tensor, pairs: int | None = None) -> ModuleType:
    """The module whose functions compute on this tensor: `native`, `gpu` or `reference`, which have the same functions.

    pairs: dot products of two vectors that the call takes, where few of them are better left to PyTorch; None where the
    kernels always win.
    """
    choice = os.environ.get("SPARSECSE_KERNELS", "auto")
    if choice not in ("auto", "native", "triton", "reference"):
        raise InputError(f"SPARSECSE_KERNELS is {choice!r}, but must be auto, native, triton or reference.")
    if choice == "reference":
        return reference
    # In float64 precision is the point, and only tests and studies ask for it: the reference serves them.
    fits = x.dtype in (torch.float32, torch.bfloat16, torch.float16)
    if choice == "triton" or (choice == "auto" and x.device.type == "cuda"):
        if fits and _triton_runs_on(x.device) and (choice == "triton" or _triton_wins(x, pairs)):
            from sparsecse.kernels import gpu

            return gpu
        if choice == "triton":
            raise InputError(
                f"SPARSECSE_KERNELS=triton cannot serve a {x.dtype} tensor on {x.device}: Triton kernels take float32, "
                "bfloat16 and float16, need triton and an NVIDIA GPU of compute capability 8.0 or more, and run on the "
                "CPU under TRITON_INTERPRET=1 alone; use SPARSECSE_KERNELS=auto."
            )
        return reference
    if fits and x.device.type == "cpu" and native_extension() is not None:
        from sparsecse.kernels import native

        return native
    if choice == "native":
        raise InputError(
            f"SPARSECSE_KERNELS=native cannot serve a {x.dtype} tensor on {x.device}: native kernels take float32, "
            "bfloat16 and float16 on the CPU, and need the compiled extension; use SPARSECSE_KERNELS=auto."
        )
    return reference


def _triton_runs_on(device: torch.device) -> bool:
    if not triton_installed():
        return False
    if device.type == "cpu":
        return interpreting()
    return device.type == "cuda" and torch.version.hip is None and architecture(device) >= ARCHITECTURES[0]


def _triton_wins(x: Tensor, pairs: int | None) -> bool:
    return pairs is None or pairs >= TRITON_FROM_PAIRS[product_precision(x.dtype)]


def cpu_level() -> int:
    """The instruction set the native kernels use: `SPARSECSE_CPU`, or the best this machine has."""
    extension = native_extension()
    assert extension is not None
    wanted = os.environ.get("SPARSECSE_CPU")
    names: list[str] = extension.cpu_level_names()
    if wanted and wanted not in names:
        raise InputError(f"SPARSECSE_CPU is {wanted!r}, but must be one of {', '.join(names)}.")
    best: int = extension.best_cpu_level()
    return min(best, names.index(wanted)) if wanted else best


@lru_cache(maxsize=1)
def fast_bfloat16() -> bool:
    """Whether PyTorch multiplies bfloat16 matrices well faster than float32 ones on this CPU, by a try of milliseconds.

    With AMX they are several times faster. With AVX-512 BF16 alone it depends: Zen 4 has twice the speed, and Sapphire
    Rapids held to it half.
    """

    def seconds(dtype: torch.dtype) -> float:
        x, weight = torch.ones(1024, 384, dtype=dtype), torch.ones(1536, 384, dtype=dtype)
        best = math.inf
        for _ in range(4):
            start = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            best = min(best, time.perf_counter() - start)
        return best

    return seconds(torch.bfloat16) * 1.3 < seconds(torch.float32)
