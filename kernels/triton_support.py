"""What the Triton kernels share: whether it can run here, and saved launch configurations. Imports no Triton."""

import importlib.util
import os
from collections.abc import Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch

# Target architectures that the saved configurations were compiled for, lowest first.
ARCHITECTURES = (80, 90)


@lru_cache(maxsize=1)
def triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def interpreting() -> bool:
    """Whether Triton's interpreter runs the kernels, on CPU tensors. Triton reads the variable when it is imported."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


@dataclass(frozen=True)
class LaunchConfig:
    """One way to launch a kernel: its tile sizes (constexpr arguments by name), warps and pipeline stages.

    maxnreg: registers that a thread may have, for more programs on a multiprocessor; None for as many as it wants.
    """

    tiles: Mapping[str, int]
    num_warps: int
    num_stages: int
    maxnreg: int | None = None

    def __getitem__(self, name: str) -> int:
        return self.tiles[name]

    def arguments(self) -> dict[str, int]:
        """Keyword arguments of the launch: `kernel[grid](..., **config.arguments())`."""
        limit = {} if self.maxnreg is None else {"maxnreg": self.maxnreg}
        # Triton 3.9 warns where fusing a product and a sum is left to its default, which 3.10 changes.
        options = {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True, **limit}
        return {**self.tiles, **options}


# Per kernel, the saved configuration for (lowest architecture, shape class). A shape class is whatever the kernel's
# own module distinguishes: a precision, a head size.
ConfigTable = Mapping[tuple[int, Hashable], LaunchConfig]


def choose_config(table: ConfigTable, arch: int, shape_class: Hashable) -> LaunchConfig:
    """The configuration of the highest architecture not above `arch`."""
    fitting = [known for known, key in table if key == shape_class and known <= arch]
    return table[max(fitting), shape_class]


def architecture(device: torch.device) -> int:
    """Compute capability as one number, 90 for 9.0; under the interpreter that of the newest saved configurations."""
    if device.type != "cuda":
        return ARCHITECTURES[-1]
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def device_guard(x: torch.Tensor) -> AbstractContextManager[object]:
    """Makes the device of x the current one, on which Triton launches."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


def product_precision(dtype: torch.dtype) -> str:
    """How the matrix units multiply vectors of this dtype: "bf16", "tf32" or "ieee" (float32 on the ordinary units).

    float32 is multiplied in tf32 only where the user has allowed it to PyTorch, by
    `torch.backends.cuda.matmul.fp32_precision = "tf32"` or `torch.set_float32_matmul_precision("high")`. tf32 holds
    every float16, and weights that float16 cannot.
    """
    if dtype == torch.bfloat16:
        return "bf16"
    allowed = dtype == torch.float16 or torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if allowed else "ieee"
