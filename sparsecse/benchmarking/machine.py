"""What a measurement ran on: the processor, the versions of the packages, and the memory of this process."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sparsecse.processors import affinity
from sparsecse.version import __version__

# Virtual machines often hide the processor's real name; these say what a matrix product can use.
_INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def _cpuinfo(field: str) -> str:
    """The first value of a field of /proc/cpuinfo; "" where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")


def machine() -> dict[str, Any]:
    """The machine, for the record: `cpu`, `instruction_sets`, `cores` that this process may use, `platform`."""
    flags = _cpuinfo("flags").split()
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "instruction_sets": [name for name in _INSTRUCTION_SETS if name in flags],
        "cores": affinity(),
        "platform": platform.platform(),
    }


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python, sparsecse, torch and transformers, and of those of `packages` that are installed."""
    found = {"python": platform.python_version(), "sparsecse": __version__}
    for package in ("torch", "transformers", *packages):
        try:
            found.setdefault(package.replace("_", "-"), version(package))
        except PackageNotFoundError:
            continue
    return found


def peak_rss_mb() -> float | None:
    """The most memory, in MiB, that this process has held since it began; None where the system does not tell."""
    try:
        # A child's ru_maxrss starts at what its parent held when it was forked; VmHWM is the child's own.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)  # bytes on macOS, KiB elsewhere
