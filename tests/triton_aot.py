"""Compiles Triton kernels ahead of time for GPUs that are not here, and says what the machine code needs."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Shared memory that one program may have, in bytes (CUDA programming guide, compute capabilities 8.0 and 9.0).
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}


@dataclass(frozen=True)
class Compiled:
    """registers: per thread; spilled: bytes stored and loaded because registers ran out; shared: bytes per program."""

    registers: int
    spilled: int
    shared: int
    ptx: str

    def check(self, arch: int) -> None:
        assert self.spilled == 0, f"{self.spilled} bytes are spilled with {self.registers} registers"
        assert self.shared <= SHARED_LIMIT[arch], f"{self.shared} bytes of shared memory"


def compile_kernel(
    kernel: Any,
    arch: int,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    *,
    num_warps: int,
    num_stages: int,
    maxnreg: int | None = None,
    aligned: tuple[str, ...] = (),
) -> Compiled:
    """Compiles `kernel` (a @triton.jit function, not under TRITON_INTERPRET) for sm_80 or sm_90.

    types: Triton types of the run-time arguments by name, such as "*bf16", "i32", "fp32"; constants: the constexpr
    arguments by name. `LaunchConfig.arguments()` has the tiles among these, and the warps and stages. None given for a
    pointer goes into constants. aligned: integers that a launch would see to be divisible by 16; all pointers are, as
    torch allocates them.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    assert set(names) == types.keys() | constants.keys(), set(names) ^ (types.keys() | constants.keys())
    signature = {name: types.get(name, "constexpr") for name in names}
    attributes = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in types.items()
        if kind.startswith("*") or name in aligned
    }
    source = ASTSource(kernel, signature, constexprs=dict(constants), attrs=attributes)
    target = GPUTarget("cuda", arch, 32)
    options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True, "maxnreg": maxnreg}
    compiled = triton.compile(source, target=target, options=options)
    registers, spilled = _assembled(compiled.asm["ptx"], arch)
    return Compiled(registers, spilled, compiled.metadata.shared, compiled.asm["ptx"])


def _assembled(ptx: str, arch: int) -> tuple[int, int]:
    """Registers and spilled bytes that ptxas reports, called as Triton's own compiler calls it."""
    from triton.backends.nvidia.compiler import get_ptxas

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        name = f"sm_{arch}a" if arch >= 90 else f"sm_{arch}"
        command = [get_ptxas(arch).path, "-v", "--regAllocOptLevel=2", f"--gpu-name={name}", str(source)]
        command += ["-o", f"{folder}/kernel.cubin"]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    (registers,) = re.findall(r"Used (\d+) registers", report)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", report)
    return int(registers), sum(map(int, spills))
