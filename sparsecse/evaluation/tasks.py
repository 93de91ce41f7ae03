"""The names that evaluation goes by, and the data behind them."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparsecse.datasets import (
    TRANSFER_SETS,
    PairSet,
    RerankingSet,
    RetrievalSet,
    SetNotFoundError,
    TransferSet,
    load_pairs,
    load_retrieval,
    load_transfer,
)
from sparsecse.datasets.reranking import is_ranked
from sparsecse.datasets.retrieval import SPLIT, find_retrieval, locate_retrieval
from sparsecse.errors import InputError, meant
from sparsecse.evaluation import classification
from sparsecse.evaluation.own import OwnTask, is_path, load_own
from sparsecse.files import text_hash
from sparsecse.guard import SIMILARITY

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

# Retrieval task -> the built-in set's name and split.
RETRIEVAL_TASKS: dict[str, tuple[str, str]] = {
    "demo-retrieval": ("demo", "test"),
    "demo-retrieval-dev": ("demo", "dev"),
}

# A set's own name means its test set.
ALIASES: dict[str, str] = {"stsb": "stsb-test", "sickr": "sickr-test"}

TRANSFER_TASKS: tuple[str, ...] = tuple(TRANSFER_SETS)

_STS = ("sts12", "sts13", "sts14", "sts15", "sts16", "stsb-test", "sickr-test")

# `sts` is the seven test sets whose mean is published; `all` adds the two development sets, the transfer tasks and what
# `RETRIEVAL` finds. `demo` is what the built-in demo tests.
GROUPS: dict[str, tuple[str, ...]] = {
    "sts": _STS,
    "transfer": TRANSFER_TASKS,
    "demo": ("demo-test", "demo-retrieval"),
    "all": (*_STS, "stsb-dev", "sickr-dev", *TRANSFER_TASKS),
}

RETRIEVAL = "retrieval"
"""The group of the retrieval sets that belong to the data folder; see `find_retrieval`."""

# Stands for no task, where something else is measured.
NO_TASKS = "none"


@dataclass(frozen=True)
class Tasks:
    """The data of the tasks that were found, by name, and why those that only a group asked for are missing."""

    pairs: dict[str, PairSet] = field(default_factory=dict)
    transfer: dict[str, TransferSet] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    retrieval: dict[str, RetrievalSet] = field(default_factory=dict)
    reranking: dict[str, RerankingSet] = field(default_factory=dict)
    own: dict[str, OwnTask] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return any(name in kind for kind in (self.pairs, self.transfer, self.retrieval, self.reranking, self.own))

    def fingerprint(self) -> str:
        """SHA-256 of the contents of all data, in hex."""
        return text_hash("".join(self.fingerprints().values()))

    def fingerprints(self) -> dict[str, str]:
        """The same of each task's data, by the task's name."""
        sets: dict[str, PairSet | TransferSet | RetrievalSet | RerankingSet | OwnTask] = {**self.pairs, **self.transfer}
        sets |= {**self.retrieval, **self.reranking, **self.own}
        return {name: each.fingerprint() for name, each in sets.items()}

    def kinds(self) -> dict[str, str]:
        """What each task measures, by its name: `similarity`, `transfer`, `retrieval`, `reranking`, or an own kind."""
        return {
            **dict.fromkeys(self.pairs, SIMILARITY),
            **dict.fromkeys(self.transfer, "transfer"),
            **dict.fromkeys(self.retrieval, RETRIEVAL),
            **dict.fromkeys(self.reranking, "reranking"),
            **{name: task.kind for name, task in self.own.items()},
        }

    def only(self, names: Collection[str]) -> Tasks:
        """Some of the tasks."""
        return Tasks(
            pairs={name: data for name, data in self.pairs.items() if name in names},
            transfer={name: data for name, data in self.transfer.items() if name in names},
            retrieval={name: data for name, data in self.retrieval.items() if name in names},
            reranking={name: data for name, data in self.reranking.items() if name in names},
            own={name: data for name, data in self.own.items() if name in names},
        )

    def find(self, name: str, data_dir: str | Path | None = None) -> str | None:
        """The task that `load_tasks` would load for a name or path, by its own name; None where it is not among these.

        A group is no task.
        """
        lower = ALIASES.get(name.lower(), name.lower())
        if known := next((one for one in (name, lower) if one in self), None):
            return known
        if located := retrieval_at(name, data_dir):
            folder, split = located
            for task in self.retrieval.values():
                if task.split == split and _same(task.source, folder):
                    return task.name
        return next((one for one in (*self.pairs, *self.reranking, *self.own) if _same(one, name)), None)


def _same(one: str | Path, other: str | Path) -> bool:
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def load_tasks(tasks: str | Sequence[str], *, data_dir: str | Path | None = None) -> Tasks:
    """Load the data of tasks and groups, named in a list or separated by commas; `ALIASES` are names too.

    A path is a task of the user's own files. A folder in BEIR's layout, or one of the files in its `qrels/` for another
    split than test, is a retrieval task; so is the name of a folder that `find_retrieval` finds. One with candidates in
    `top_ranked/` is a reranking task, and its `qrels/test.tsv` the retrieval task. Other paths come among `pairs` where
    they hold graded pairs, among `reranking` where they hold candidates, else among `own` (see `own.KINDS`). A known
    name goes before a path. The name `none` alone is no task. Without scikit-learn the transfer tasks of `all` are
    missing ones.

    Raises:
        SetNotFoundError: a task that was named itself is nowhere to be found, or all those of a group are not.
        InputError: an unknown name, a broken file, nothing known at a path, transfer tasks without scikit-learn, or
            a retrieval set with the name of another task.
    """
    names = [name.strip() for name in (tasks.split(",") if isinstance(tasks, str) else tasks) if name.strip()]
    known = [*GROUPS, *TASKS, *TRANSFER_TASKS, *RETRIEVAL_TASKS, RETRIEVAL]
    if not names:
        raise InputError(f"No task was named; name some of {', '.join(known)}.")
    if all(name.lower() == NO_TASKS for name in names):
        return Tasks()
    wanted: dict[str | tuple[Path, str], None] = {}  # in their order
    own: dict[str, None] = {}
    for name in names:
        lower = ALIASES.get(name.lower(), name.lower())
        if lower in known:
            wanted[lower] = None
        elif is_ranked(Path(name).expanduser()):
            own[name] = None
        elif located := retrieval_at(name, data_dir):
            wanted[located] = None
        elif lower != NO_TASKS and is_path(name):
            own[name] = None
        else:
            raise _unknown(name, known, data_dir)
    if any(name == "transfer" or name in TRANSFER_TASKS for name in wanted):
        classification.require()
    found = Tasks()
    for path in own:
        loaded = load_own(path)
        if isinstance(loaded, PairSet):
            found.pairs[path] = loaded
        elif isinstance(loaded, RerankingSet):
            found.reranking[path] = loaded
        else:
            found.own[path] = loaded
    for each in wanted:
        if isinstance(each, tuple):
            _add_retrieval(found, *each)
        else:
            _add_named(found, each, set(wanted), data_dir)
    return found


def _add_named(found: Tasks, name: str, wanted: Collection[object], data_dir: str | Path | None) -> None:
    """Load a task, or those of a group as far as they are there; wanted: the tasks that must be there."""
    members = () if name == RETRIEVAL else GROUPS.get(name, (name,))
    for task in members:
        if task in found or task in found.missing:
            continue
        try:
            if task in TASKS:
                pair_set, split = TASKS[task]
                found.pairs[task] = load_pairs(pair_set, split=split, data_dir=data_dir)
            elif task in RETRIEVAL_TASKS:
                retrieval_set, split = RETRIEVAL_TASKS[task]
                found.retrieval[task] = load_retrieval(retrieval_set, split=split)
            elif classification.available():
                found.transfer[task] = load_transfer(task, data_dir=data_dir)
            else:
                found.missing[task] = classification.MISSING
        except SetNotFoundError as error:
            if task in wanted:
                raise
            found.missing[task] = str(error)
    if name in (RETRIEVAL, "all"):
        members = (*members, *_add_retrieval_group(found, data_dir))
    if not any(task in found for task in members):
        raise SetNotFoundError(f"None of the tasks of {name!r} was found; of the first: {found.missing[members[0]]}")


def _add_retrieval_group(found: Tasks, data_dir: str | Path | None) -> tuple[str, ...]:
    """Load the retrieval sets of the data folder; the names of all, those with another split alone included."""
    folders = find_retrieval(data_dir)
    for name, folder in folders.items():
        try:
            _add_retrieval(found, folder)
        except SetNotFoundError as error:
            found.missing[name] = str(error)
    if folders:
        return tuple(folders)
    found.missing[RETRIEVAL] = (
        "No folder with corpus.jsonl is in the data folder or in its retrieval/; give a data folder that has one with "
        f"`data_dir` or SPARSECSE_DATA_DIR (looked in {data_dir or os.environ.get('SPARSECSE_DATA_DIR') or 'none'})."
    )
    return (RETRIEVAL,)


def _add_retrieval(found: Tasks, folder: Path, split: str = SPLIT) -> None:
    task = load_retrieval(folder, split=split)
    other = found.retrieval.get(task.name)
    named = task.name in (*TASKS, *TRANSFER_TASKS, *RETRIEVAL_TASKS)
    if named or (other is None and task.name in found):
        raise InputError(f"{folder} has the name of another task, {task.name!r}; rename the folder.")
    if other is not None and Path(other.source).resolve() != folder.resolve():
        raise InputError(f"{other.source} and {folder} have the same name, {task.name!r}; rename one folder.")
    found.retrieval[task.name] = task


def retrieval_at(name: str, data_dir: str | Path | None) -> tuple[Path, str] | None:
    """The folder and the split of the retrieval set that a name means which is no known one; None where there is none.

    What is there at a path goes before a folder of the same name in the data folder.
    """
    path = Path(name).expanduser()
    if located := locate_retrieval(path):
        return located
    if path.exists() or path.name != name:
        return None
    folder = find_retrieval(data_dir).get(name)
    return (folder, SPLIT) if folder else None


def _unknown(name: str, known: Sequence[str], data_dir: str | Path | None) -> InputError:
    folders = find_retrieval(data_dir)
    return InputError(
        f"There is no task {name!r}; the known ones are {', '.join([*known, *folders])}, and paths of your own data "
        f"and of folders in BEIR's layout.{meant(name, [*known, *ALIASES, *folders])}"
    )
