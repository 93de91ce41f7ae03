"""Facts about this installation and machine: what computes here, with how many threads and why, and what is missing."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Any

import torch
from packaging.requirements import Requirement

import sparsecse.processors as processors
from sparsecse.benchmarking import machine, versions
from sparsecse.kernels import dispatch
from sparsecse.kernels.triton_support import triton_installed
from sparsecse.runtime.precision import available

# Extras that bring nothing to a user, or nothing of their own.
_NOT_FOR_USE = {"all", "test", "dev", "docs"}
_ENVIRONMENT = ("SPARSECSE_KERNELS", "SPARSECSE_CPU", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE")


def examine() -> dict[str, Any]:
    """Everything below, as JSON holds it.

    Keys: `versions`, `machine`, `kernels`, `threads`, `devices`, `environment` (variables that are set and change
    something) and `missing`.
    """
    return {
        "versions": versions(("sentence-transformers", "tokenizers", "numpy")),
        "machine": machine(),
        "kernels": kernels(),
        "threads": threads(torch.get_num_threads()),
        "devices": devices(),
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        "missing": missing(),
    }


def kernels() -> dict[str, Any]:
    """What computes on the CPU: `implementation`, `level` and `precisions` of the native kernels, and `mend`.

    `mend` says what to do where the kernels are not native; None where nothing is to be done.
    """
    extension = dispatch.native_extension()
    if extension is None:
        mend = dispatch.how_to_get_native()
        return {"implementation": "reference", "level": None, "precisions": [], "mend": mend}
    asked = os.environ.get("SPARSECSE_KERNELS") == "reference"
    return {
        "implementation": "reference" if asked else "native",
        "level": extension.cpu_level_names()[dispatch.cpu_level()],
        "precisions": list(available()),
        "mend": "unset SPARSECSE_KERNELS" if asked else None,
    }


def threads(torch_threads: int) -> dict[str, Any]:
    """The threads that are used by default, of what they are the least, and in a few words which of that decided."""
    quota = processors.cgroup_quota()
    affinity, used = processors.affinity(), processors.default_threads(torch_threads)
    if used == torch_threads:
        reason = "what torch takes (OMP_NUM_THREADS, torch.set_num_threads)"
    elif used == affinity:
        reason = "the affinity mask"
    else:
        assert quota is not None
        reason = f"the CPU quota in {quota.source}"
    return {
        "used": used,
        "reason": reason,
        "torch": torch_threads,
        "affinity": affinity,
        "processors": os.cpu_count(),
        "quota": None if quota is None else quota.processors,
        "quota_source": None if quota is None else quota.source,
    }


def devices() -> list[str]:
    """The CUDA devices that PyTorch finds, with their memory; and what it lacks for those that there may be."""
    if not torch.cuda.is_available():
        built = "finds none" if torch.version.cuda else "is built without CUDA"
        return [f"no GPU: PyTorch {torch.__version__} {built}"]
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    names = [
        f"cuda:{index}: {device.name}, {device.total_memory / 2**30:.0f} GiB" for index, device in enumerate(found)
    ]
    return names if triton_installed() else [*names, "no Triton: pip install triton, for kernels on the GPU"]


def missing() -> list[dict[str, Any]]:
    """The extras of which packages are absent or too old: `extra`, `packages` and the `command` that installs them."""
    try:
        wanted = [Requirement(text) for text in requires("sparsecse") or ()]
        extras = metadata("sparsecse").get_all("Provides-Extra") or []
    except PackageNotFoundError:  # a source tree on PYTHONPATH
        return []
    found = []
    for extra in extras:
        if extra in _NOT_FOR_USE or (extra == "triton" and not torch.cuda.is_available()):
            continue
        own = [one for one in wanted if one.marker and one.marker.evaluate({"extra": extra})]
        absent = [str(one).partition(";")[0].strip() for one in own if not _is_there(one)]
        if absent:
            found.append({"extra": extra, "packages": absent, "command": f"pip install 'sparsecse[{extra}]'"})
    return found


def _is_there(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False
