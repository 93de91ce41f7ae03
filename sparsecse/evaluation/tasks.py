"""The names that evaluation goes by, and the data behind them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparsecse.datasets import (
    TRANSFER_SETS,
    PairSet,
    SetNotFoundError,
    TransferSet,
    load_pairs,
    load_transfer,
)
from sparsecse.errors import InputError
from sparsecse.evaluation import classification
from sparsecse.evaluation.own import OwnTask, is_path, load_own
from sparsecse.files import text_hash

# Similarity task -> the pair set's name and split.
TASKS: dict[str, tuple[str, str]] = {
    **{f"sts{year}": (f"sts{year}", "test") for year in (12, 13, 14, 15, 16)},
    "stsb-test": ("stsb", "test"),
    "sickr-test": ("sickr", "test"),
    "stsb-dev": ("stsb", "dev"),
    "sickr-dev": ("sickr", "dev"),
    "demo-dev": ("demo", "dev"),
    "demo-test": ("demo", "test"),
}

# A set's own name means its test set.
ALIASES: dict[str, str] = {"stsb": "stsb-test", "sickr": "sickr-test"}

TRANSFER_TASKS: tuple[str, ...] = tuple(TRANSFER_SETS)

_STS = ("sts12", "sts13", "sts14", "sts15", "sts16", "stsb-test", "sickr-test")

# `sts` is the seven test sets whose mean is published; `all` adds the two development sets and the transfer tasks.
GROUPS: dict[str, tuple[str, ...]] = {
    "sts": _STS,
    "transfer": TRANSFER_TASKS,
    "all": (*_STS, "stsb-dev", "sickr-dev", *TRANSFER_TASKS),
}


# Stands for no task, where something else is measured.
NO_TASKS = "none"


@dataclass(frozen=True)
class Tasks:
    """The data of the tasks that were found, by name, and why those that only a group asked for are missing."""

    pairs: dict[str, PairSet] = field(default_factory=dict)
    transfer: dict[str, TransferSet] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    own: dict[str, OwnTask] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """SHA-256 of the contents of all data, in hex."""
        sets: list[PairSet | TransferSet | OwnTask] = [*self.pairs.values(), *self.transfer.values()]
        sets += self.own.values()
        return text_hash("".join(each.fingerprint() for each in sets))


def load_tasks(tasks: str | Sequence[str], *, data_dir: str | Path | None = None) -> Tasks:
    """Load the data of tasks and groups, named in a list or separated by commas; `ALIASES` are names too.

    A path is a task of the user's own files: graded pairs come among `pairs`, others among `own` (see `own.KINDS`).
    The name `none` alone is no task. Without scikit-learn the transfer tasks of `all` are missing ones.

    Raises:
        SetNotFoundError: a task that was named itself is nowhere to be found, or all those of a group are not.
        InputError: an unknown name, a broken file, nothing known at a path, or transfer tasks without scikit-learn.
    """
    known = [*GROUPS, *TASKS, *TRANSFER_TASKS]
    given = [name.strip() for name in (tasks.split(",") if isinstance(tasks, str) else tasks) if name.strip()]
    paths = [name for name in given if name.lower() not in (*known, *ALIASES, NO_TASKS) and is_path(name)]
    names = list(dict.fromkeys(ALIASES.get(name.lower(), name.lower()) for name in given if name not in paths))
    if names == [NO_TASKS] and not paths:
        return Tasks()
    if not given:
        raise InputError(f"No task was named; name some of {', '.join(known)}.")
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, [*known, *ALIASES], n=1)
            meant = f" Did you mean {close[0]}?" if close else ""
            raise InputError(
                f"There is no task {name!r}; the known ones are {', '.join(known)}, and paths of your own data.{meant}"
            )
    if any(name == "transfer" or name in TRANSFER_TASKS for name in names):
        classification.require()
    found = Tasks()
    for path in paths:
        loaded = load_own(path)
        if isinstance(loaded, PairSet):
            found.pairs[path] = loaded
        else:
            found.own[path] = loaded
    for name in names:
        members = GROUPS.get(name, (name,))
        for task in members:
            if task in found.pairs or task in found.transfer or task in found.missing:
                continue
            try:
                if task in TASKS:
                    pair_set, split = TASKS[task]
                    found.pairs[task] = load_pairs(pair_set, split=split, data_dir=data_dir)
                elif classification.available():
                    found.transfer[task] = load_transfer(task, data_dir=data_dir)
                else:
                    found.missing[task] = classification.MISSING
            except SetNotFoundError as error:
                if task in names:
                    raise
                found.missing[task] = str(error)
        if not any(task in found.pairs or task in found.transfer for task in members):
            raise SetNotFoundError(
                f"None of the tasks of {name!r} was found; of the first: {found.missing[members[0]]}"
            )
    return found
