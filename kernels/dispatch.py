"""Which implementation of a kernel runs: the one place that knows.

`SPARSECSE_KERNELS` = `auto` (the default), `native` (an error where it cannot run) or `reference` (plain PyTorch).
`SPARSECSE_CPU` = `portable`, `avx2`, `avx512`, `avx512vnni`, `avx512bf16` or `amx` holds the native CPU kernels to that
instruction set or the best one below it that the machine has.
"""

import os
import warnings
from functools import lru_cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from sparsecse.errors import InputError
from sparsecse.kernels import reference


@lru_cache(maxsize=1)
def native_extension() -> ModuleType | None:
    """The compiled extension, or None (and one warning) where the install could not build it."""
    try:
        # By name: the extension has no stubs, and a type checker must pass where it is not built.
        return import_module("sparsecse._native")
    except ImportError as error:
        warnings.warn(
            f"sparsecse runs its kernels through PyTorch, slower, as the compiled ones cannot be loaded ({error}); "
            "reinstall sparsecse where g++ or clang++ is present to have them.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def implementation(x: Tensor) -> ModuleType:
    """The module whose functions compute on this tensor: `native` for CPU tensors it supports, else `reference`.

    A GPU backend joins here: one more module with the functions of `reference`, chosen by `x.device.type`.
    """
    choice = os.environ.get("SPARSECSE_KERNELS", "auto")
    if choice not in ("auto", "native", "reference"):
        raise InputError(f"SPARSECSE_KERNELS is {choice!r}, but must be auto, native or reference.")
    if choice == "reference":
        return reference
    # In float64 precision is the point, and only tests and studies ask for it: the reference serves them.
    fits = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
    if fits and native_extension() is not None:
        from sparsecse.kernels import native

        return native
    if choice == "native":
        raise InputError(
            f"SPARSECSE_KERNELS=native cannot serve a {x.dtype} tensor on {x.device}: native kernels take float32, "
            "bfloat16 and float16 on the CPU, and need the compiled extension; use SPARSECSE_KERNELS=auto."
        )
    return reference


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
