"""How many threads: affinity, quotas of control groups, and what is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sparsecse import processors
from sparsecse.errors import InputError
from sparsecse.processors import Quota, cgroup_quota, check_threads

V1 = "4:memory:/docker/a\n3:cpu,cpuacct:/docker/a\n"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        # Version 2: the own group as the top of what a container sees, or below groups that may grant less.
        ("0::/\n", {"cpu.max": "150000 100000\n"}, (1.5, "cpu.max")),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000"}, (2, "a/cpu.max")),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "max 100000"}, (0.5, "a/b/cpu.max")),
        ("0::/../outside\n", {"cpu.max": "300000 100000"}, (3, "cpu.max")),
        ("0::/\n", {"unified/cpu.max": "100000 50000"}, (2, "unified/cpu.max")),
        # Version 1: the group may be mounted at the top, and the controller under either name.
        (V1, {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, (2.5, "cpu/cpu.cfs_quota_us")),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        (
            V1,
            {"cpu,cpuacct/docker/a/cpu.cfs_quota_us": "100000", "cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000"},
            (1, "cpu,cpuacct/docker/a/cpu.cfs_quota_us"),
        ),
        ("", {}, None),
        ("nonsense\n", {"cpu.max": "nonsense"}, None),
    ],
)
def test_the_quota_of_a_container(
    groups: str, files: dict[str, str], expected: tuple[float, str] | None, tmp_path: Path
) -> None:
    mounts = tmp_path / "sys/fs/cgroup"
    for path, text in {tmp_path / "proc/self/cgroup": groups, **{mounts / k: v for k, v in files.items()}}.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert cgroup_quota(tmp_path) == (None if expected is None else Quota(expected[0], str(mounts / expected[1])))


def test_threads_are_no_more_than_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "affinity", lambda: 8)
    for granted, count in ((None, 8), (2.5, 3), (0.2, 1), (64.0, 8)):
        quota = None if granted is None else Quota(granted, "file")
        monkeypatch.setattr(processors, "cgroup_quota", lambda quota=quota: quota)
        assert processors.available() == count
        assert processors.default_threads(16) == count and processors.default_threads(1) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity masks")
def test_the_affinity_mask() -> None:
    mask = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(mask)})
        assert processors.available() == 1
    finally:
        os.sched_setaffinity(0, mask)


def test_numbers_of_threads() -> None:
    assert check_threads(None) is None and check_threads(1) == 1 and check_threads(np.int64(2)) == 2
    for wrong, message in (
        (0, "`threads` 0 is less than 1"),
        (-1, "`threads` -1 is less than 1"),
        (1000, "`threads` 1000 is more than"),
        (1.5, "`threads` 1.5 is not a whole number; give one from 1 to"),
        ("2", "`threads` '2' is not a whole number"),
    ):
        with pytest.raises(InputError, match=message):
            check_threads(wrong)
