"""How many threads to compute with: what this process may use of the machine, and what is asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from sparsecse.errors import InputError


@dataclass(frozen=True)
class Quota:
    """Processor time that a control group grants.

    processors: seconds of processor time per second.
    source: the file that says so.
    """

    processors: float
    source: str


@cache
def cgroup_quota(root: Path = Path("/")) -> Quota | None:
    """The smallest quota of this process's control groups, cgroup v1 or v2, and those above them; None without one.

    root: where `proc` and `sys` lie.
    """
    quotas = [quota for group in _groups(root) if (quota := _quota(group)) is not None]
    return min(quotas, key=lambda quota: quota.processors, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of this process's groups for processor time, each with those above it."""
    mounts = root / "sys/fs/cgroup"
    # In a container the own group is often mounted where the path that the kernel tells begins: the top is always read.
    for line in ("0::/", "1:cpu:/", *_read(root / "proc/self/cgroup").splitlines()):
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        own = PurePosixPath("/" if ".." in path else path or "/")
        for folder in ("cpu", "cpu,cpuacct") if controllers else ("", "unified"):
            for group in (own, *own.parents):
                yield mounts / folder / group.relative_to("/")


def _quota(group: Path) -> Quota | None:
    for name, text in (
        ("cpu.max", _read(group / "cpu.max")),
        ("cpu.cfs_quota_us", f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"),
    ):
        try:
            granted, period = map(float, text.split())
        except ValueError:  # "max", or no such file
            continue
        if granted > 0 and period > 0:
            return Quota(granted / period, str(group / name))
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def affinity() -> int:
    """The processors that the system lets this process run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available() -> int:
    """The processors of the affinity mask, or as many as the quota, rounded up, keeps busy; at least 1."""
    quota = cgroup_quota()
    return affinity() if quota is None else max(1, min(affinity(), math.ceil(quota.processors)))


def default_threads(torch_threads: int) -> int:
    """`torch_threads`, but no more than `available`."""
    return min(torch_threads, available())


def check_threads(threads: Any) -> int | None:
    """A number of threads that was asked for; None where none was.

    Raises:
        InputError: anything but a whole number from 1 to 64, or to the number of the machine's processors where there
            are more: a system that cannot start a thread makes OpenMP end the process.
    """
    if threads is None:
        return None
    most = max(64, os.cpu_count() or 1)
    try:
        number = threads.__index__()
    except (AttributeError, TypeError):
        raise InputError(f"`threads` {threads!r} is not a whole number; give one from 1 to {most}.") from None
    if number < 1:
        raise InputError(f"`threads` {number} is less than 1; give a positive number, or leave it out.")
    if number > most:
        raise InputError(f"`threads` {number} is more than {most}; more than there are processors only slow it down.")
    return number
