"""The names that evaluation goes by, and the pair sets behind them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparsecse.datasets import PairSet, SetNotFoundError, load_pairs
from sparsecse.errors import InputError

# Task -> the pair set's name and split.
TASKS: dict[str, tuple[str, str]] = {
    **{f"sts{year}": (f"sts{year}", "test") for year in (12, 13, 14, 15, 16)},
    "stsb-test": ("stsb", "test"),
    "sickr-test": ("sickr", "test"),
    "stsb-dev": ("stsb", "dev"),
    "sickr-dev": ("sickr", "dev"),
    "demo-dev": ("demo", "dev"),
    "demo-test": ("demo", "test"),
}

# `sts` is the seven test sets whose mean is published; `all` adds the two development sets.
GROUPS: dict[str, tuple[str, ...]] = {
    "sts": ("sts12", "sts13", "sts14", "sts15", "sts16", "stsb-test", "sickr-test"),
    "all": ("sts12", "sts13", "sts14", "sts15", "sts16", "stsb-test", "sickr-test", "stsb-dev", "sickr-dev"),
}


def load_tasks(
    tasks: str | Sequence[str], *, data_dir: str | Path | None = None
) -> tuple[dict[str, PairSet], dict[str, str]]:
    """Load the pair sets of tasks and groups, named in a list or separated by commas.

    Returns the sets by task, and why the tasks that only a group asked for are missing.

    Raises:
        SetNotFoundError: a task that was named itself is nowhere to be found, or all those of a group are not.
        InputError: an unknown name, or a broken file.
    """
    names = [name.strip().lower() for name in (tasks.split(",") if isinstance(tasks, str) else tasks)]
    names = list(dict.fromkeys(name for name in names if name))
    if not names:
        raise InputError(f"No task was named; name some of {', '.join([*GROUPS, *TASKS])}.")
    for name in names:
        if name not in TASKS and name not in GROUPS:
            raise InputError(f"There is no task {name!r}; the known ones are {', '.join([*GROUPS, *TASKS])}.")
    found: dict[str, PairSet] = {}
    missing: dict[str, str] = {}
    for name in names:
        members = GROUPS.get(name, (name,))
        for task in members:
            if task in found or task in missing:
                continue
            pair_set, split = TASKS[task]
            try:
                found[task] = load_pairs(pair_set, split=split, data_dir=data_dir)
            except SetNotFoundError as error:
                if task in names:
                    raise
                missing[task] = str(error)
        if not any(task in found for task in members):
            raise SetNotFoundError(f"None of the tasks of {name!r} was found; of the first: {missing[members[0]]}")
    return found, missing
