"""Sets through Hugging Face `datasets`: its local cache, then the hub; folders laid out like a hub repository."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sparsecse.datasets.senteval import GradedPairs
from sparsecse.datasets.tables import (
    ROWS_AT_A_TIME,
    TABLE_SUFFIXES,
    Rows,
    Table,
    numbered_rows,
    parse_score,
    table_suffix,
)
from sparsecse.errors import InputError


class HubSet(NamedTuple):
    """A dataset on the hub, its columns, and the factor that brings its scores to 0-5."""

    repository: str
    first: str = "sentence1"
    second: str = "sentence2"
    score: str = "score"
    factor: float = 1.0
    revision: str | None = None


# mteb/sickr-sts is not here: its one split mixes the train, trial and test pairs (9,927): another task.
# RobZamp/sick is a loading script, which `datasets` runs no more; the hub keeps its conversion on this branch.
HUB_SETS = {
    "stsb": (HubSet("sentence-transformers/stsb", factor=5.0), HubSet("mteb/stsbenchmark-sts")),
    "sickr": (
        HubSet("RobZamp/sick", "sentence_A", "sentence_B", "relatedness_score", revision="refs/convert/parquet"),
    ),
    **{f"sts{year}": (HubSet(f"mteb/sts{year}-sts"),) for year in (12, 13, 14, 15, 16)},
}

_HUB_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


# `owner/name`, on the hub or a folder's path, then `:configuration` and `@split` where they are needed.
_ADDRESS = re.compile(r"(?P<place>.+?)(?::(?P<config>[^:@/\\]+))?(?:@(?P<split>[^:@/\\]+))?")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class Address(NamedTuple):
    """A data set that `datasets` loads; `place` is a folder or a repository of the hub."""

    place: str
    config: str | None
    split: str | None


def address(text: str) -> Address | None:
    """The address `PLACE[:CONFIGURATION][@SPLIT]` that a text is; None where PLACE is neither a folder nor a hub id."""
    if Path(text).is_dir():
        return Address(text, None, None)
    match = _ADDRESS.fullmatch(text)
    if match is None:
        return None
    place = match["place"]
    is_file = table_suffix(Path(place)) is not None or place.endswith((".txt", ".gz"))
    if Path(place).is_dir() or (_REPOSITORY.fullmatch(place) and not is_file):
        return Address(place, match["config"], match["split"])
    return None


def read_address(address: Address, split: str | None) -> Table:
    """The rows of one split, with the columns that hold a text, a number or a list.

    Scores of a repository in `HUB_SETS` are brought to 0-5.

    Args:
        address: where; its own split, if it has one, must not contradict `split`.
        split: its name, or `dev` for `validation`; None where there is only one.

    Raises:
        InputError: it cannot be had; no such split, or several to choose from; no rows.
    """
    rows, split, source = _rows(address, split)
    if not len(rows):
        raise InputError(f"{source} has no rows; choose another split, or another data set.")
    columns = {column: rows[column][:] for column in _plain_columns(rows)}
    for hub_set in (each for sets in HUB_SETS.values() for each in sets):
        if hub_set.repository == address.place and hub_set.factor != 1 and hub_set.score in columns:
            grades = columns[hub_set.score]
            columns[hub_set.score] = [None if grade is None else round(grade * hub_set.factor, 4) for grade in grades]
    return Table(source, columns, [f"row {number}" for number in range(1, len(rows) + 1)], split)


def open_address(address: Address) -> Rows:
    """The rows of a split, to be read one by one: `datasets` maps them into memory.

    Raises:
        InputError: as `read_address`, but for no rows.
    """
    rows, _, source = _rows(address, None)

    def cells(wanted: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        return numbered_rows(wanted, rows.select_columns(list(wanted)).iter(ROWS_AT_A_TIME))

    return Rows(source, tuple(_plain_columns(rows)), len(rows), cells)


def _rows(address: Address, split: str | None) -> tuple[Any, str, str]:
    """The data set of a split, the split's name, and both in words."""
    place, config, own = address
    if None not in (split, own) and split != own:
        raise InputError(f"{place}@{own} names one split and `split` {split} another; give one of them.")
    name = place if config is None else f"{place}:{config}"
    rows, origin = _folder_splits(Path(place), config) if Path(place).is_dir() else _repository_splits(place, config)
    wanted = own or split or (next(iter(rows)) if len(rows) == 1 else None)
    wanted = _HUB_SPLITS["dev"] if wanted == "dev" and "dev" not in rows else wanted
    if wanted is None or wanted not in rows:
        lacking = "several splits" if wanted is None else f"no split {wanted!r}"
        raise InputError(f"{name} has {lacking}; choose one of {', '.join(rows)} with `split`, or write {name}@SPLIT.")
    return rows[wanted], wanted, f"{name} ({wanted}, {origin})"


def _plain_columns(rows: Any) -> list[str]:
    return [name for name, kind in rows.features.items() if _is_plain(kind)]


def _is_plain(kind: Any) -> bool:
    import datasets

    if isinstance(kind, datasets.List):
        kind = kind.feature
    return isinstance(kind, datasets.Value | datasets.ClassLabel)


def _folder_splits(folder: Path, config: str | None) -> tuple[Any, str]:
    import datasets

    inside = [file for place in (folder, folder / "data") if place.is_dir() for file in place.iterdir()]
    reason = f"it holds none of {', '.join(TABLE_SUFFIXES)}"
    if any(map(table_suffix, inside)):
        try:
            return datasets.load_dataset(str(folder), config), "folder"
        except Exception as error:  # `datasets` passes on whatever its many builders raise
            reason = _first_line(error)
    raise InputError(
        f"{folder} is a folder and no data set ({reason}); give a file, or a set's name with the folder as `data_dir`."
    )


def _repository_splits(repository: str, config: str | None) -> tuple[Any, str]:
    from datasets.packaged_modules.cache.cache import Cache

    name = repository.split("/")[-1]
    try:
        # Without a name the one configuration that happens to be cached would be taken for the data set.
        builder = Cache(
            dataset_name=name, repo_id=repository, config_name=config or "default", version="auto", hash="auto"
        )
        return builder.as_dataset(), "local datasets cache"
    except ValueError:
        found = _load(repository, name=config)
    if isinstance(found, str):
        raise InputError(
            f"{repository} is no file, and a data set of the Hugging Face hub of that name cannot be had ({found}); "
            f"check the name, or put it into the local datasets cache."
        )
    return found, "Hugging Face hub"


def from_cache(name: str, split: str) -> tuple[GradedPairs, str] | None:
    """A set from the local `datasets` cache, without the network: its pairs and where they were; None if not cached."""
    from datasets.packaged_modules.cache.cache import Cache

    for hub_set in HUB_SETS[name]:
        try:
            builder = Cache(
                dataset_name=hub_set.repository.split("/")[-1],
                repo_id=hub_set.repository,
                version="auto",
                hash="auto",
            )
            rows = builder.as_dataset(split=_HUB_SPLITS[split])
        except ValueError:  # not cached, or cached without this split
            continue
        return _graded(rows, hub_set), f"{hub_set.repository} ({split}, local datasets cache)"
    return None


def from_hub(name: str, split: str) -> tuple[GradedPairs, str] | str:
    """A set from the hub: its pairs and where they were; or, if it cannot be had, why not."""
    hub_set = HUB_SETS[name][0]
    rows = _load(hub_set.repository, split=_HUB_SPLITS[split], revision=hub_set.revision)
    if isinstance(rows, str):
        return rows
    return _graded(rows, hub_set), f"{hub_set.repository} ({split}, Hugging Face hub)"


def _load(repository: str, **which: Any) -> Any:
    """What the hub has of a repository, or, if it cannot be had, why not."""
    import datasets

    if datasets.config.HF_HUB_OFFLINE:
        return "offline mode is on"
    if not _hub_answers():
        return "the hub does not answer"
    try:
        return datasets.load_dataset(repository, **which)
    except Exception as error:  # `datasets` passes on whatever its many storage layers raise
        return _first_line(error)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}"


@functools.cache
def _hub_answers() -> bool:
    """Ask once a process: `datasets` itself would retry for half a minute per set where there is no network."""
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.utils import get_session

    try:
        get_session().head(ENDPOINT, timeout=5)
    except Exception:  # httpx or requests, by the version of huggingface_hub
        return False
    return True


def _graded(rows: Any, hub_set: HubSet) -> GradedPairs:
    # Rounded, so that 0.76 x 5 is the 3.8 of the SentEval file.
    scores = [
        parse_score(round(score * hub_set.factor, 4), f"{hub_set.repository}, row {number}")
        for number, score in enumerate(rows[hub_set.score], start=1)
    ]
    return GradedPairs(list(rows[hub_set.first]), list(rows[hub_set.second]), scores, None)
