"""Graded sentence pairs by name (demo, STS-B, SICK-R, STS12-16) or from a table file."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from sparsecse.datasets import hub, senteval
from sparsecse.datasets.builtin import demo_pairs
from sparsecse.datasets.senteval import GradedPairs
from sparsecse.datasets.sets import PairSet
from sparsecse.datasets.tables import TABLE_SUFFIXES, Table, read_table, table_suffix
from sparsecse.errors import InputError, meant

# The splits of every named set; the first is the default.
PAIR_SETS: dict[str, tuple[str, ...]] = {
    "demo": ("dev", "test"),
    "stsb": ("dev", "train", "test"),
    "sickr": ("dev", "train", "test"),
    **{f"sts{year}": ("test",) for year in (12, 13, 14, 15, 16)},
}

_ALIASES = {"stsbenchmark": "stsb", "sick": "sickr", "sickrelatedness": "sickr"}
_SPLIT_ALIASES = {"validation": "dev", "trial": "dev"}


class SetNotFoundError(InputError):
    """A named set that is neither in the data folder, nor in the local cache, nor to be had from the hub."""


def canonical_name(name_or_path: str | Path) -> str | None:
    """The name in `PAIR_SETS` that is meant (`STS-B` -> `stsb`), or None if it is none of them."""
    if isinstance(name_or_path, Path):
        return None
    name = re.sub("[-_ ]", "", name_or_path.lower())
    name = _ALIASES.get(name, name)
    return name if name in PAIR_SETS else None


def load_pairs(
    name_or_path: str | Path,
    *,
    split: str | None = None,
    data_dir: str | Path | None = None,
    columns: Sequence[str] | None = None,
) -> PairSet:
    """Load a pair set by name, from a .tsv, .csv, .jsonl, .json or .parquet file, or from any data set of the hub.

    A name (`demo`, `stsb`, `sickr`, `sts12` .. `sts16`; case and hyphens do not matter) is looked for in `data_dir`,
    else the environment's SPARSECSE_DATA_DIR (a SentEval folder: the one that holds `downstream/`, or that one); then
    in the local `datasets` cache; then on the Hugging Face hub.

    A data set of the hub is `owner/name`, and where needed `owner/name:configuration` and `owner/name@split`; a folder
    of table files in the layout of a hub repository can stand in its place.

    Args:
        name_or_path: a name of `PAIR_SETS`, a file, a hub id or a folder.
        split: train, dev or test, where the set has it; by default dev, and test for STS12-16. Not for files; a hub id
            with several splits must have one.
        data_dir: the SentEval folder.
        columns: the table's two sentence columns and, if it has one, its score column; by default `sentence1`,
            `sentence2` and, where present, `score`. Scores are from 0 to 5. Not for names.

    Raises:
        SetNotFoundError: a known name that was found nowhere.
        InputError: an unknown name or split, a missing file or column, a bad or blank cell, an empty set.
    """
    name = canonical_name(name_or_path)
    if name is None:
        table = find_table(name_or_path, split)
        if table is None:
            raise InputError(f"{name_or_path} is not a table of pairs; give one of {', '.join(TABLE_SUFFIXES)}.")
        return pairs_of(table, name_or_path, columns)
    if columns is not None:
        raise InputError(f"Columns were named for the set {name!r}, which has its own; name columns only for a file.")
    split = PAIR_SETS[name][0] if split is None else _SPLIT_ALIASES.get(split.lower(), split.lower())
    if split not in PAIR_SETS[name]:
        known = PAIR_SETS[name]
        raise InputError(
            f"The set {name!r} has no split {split!r}; choose one of {', '.join(known)}.{meant(split, known)}"
        )
    pairs, source = _find(name, split, data_dir)
    if not pairs.scores:
        raise InputError(f"{source} holds no graded pairs; restore it.")
    return PairSet(
        name=name,
        split=split,
        # SentEval splits sentences at white space and SimCSE joins them with single spaces.
        first=tuple(" ".join(text.split()) for text in pairs.first),
        second=tuple(" ".join(text.split()) for text in pairs.second),
        scores=tuple(pairs.scores),
        subsets=None if pairs.subsets is None else tuple(pairs.subsets),
        source=source,
    )


def _find(name: str, split: str, data_dir: str | Path | None) -> tuple[GradedPairs, str]:
    if name == "demo":
        return demo_pairs(split), f"the built-in demo ({split})"
    folder = data_dir or os.environ.get("SPARSECSE_DATA_DIR")
    wanted = Path(senteval.FILES[name][split])
    if folder:
        wanted = senteval.locate(name, split, Path(folder))
        if wanted.exists():
            return senteval.read(wanted), str(wanted)
    if cached := hub.from_cache(name, split):
        return cached
    found = hub.from_hub(name, split)
    if not isinstance(found, str):
        return found
    repository = hub.HUB_SETS[name][0].repository
    raise SetNotFoundError(
        f"The {split} split of {name!r} was not found: give a SentEval folder that has it with `data_dir` or "
        f"SPARSECSE_DATA_DIR (looked for {wanted}), or put {repository} into the local datasets cache, or allow its "
        f"download from the Hugging Face hub ({found})."
    )


def find_table(name_or_path: str | Path, split: str | None) -> Table | None:
    """The table that is meant by what is no named set: a file, or an address of `hub.address`; None for a text file.

    Raises:
        InputError: nothing is there; a split of a file; as `read_table` and `hub.read_address`.
    """
    path = Path(name_or_path)
    if path.is_file():
        if split is not None:
            raise InputError(f"A split ({split!r}) was given for the file {path}, which is read whole; leave it out.")
        return None if table_suffix(path) is None else read_table(path)
    if address := hub.address(str(name_or_path)):
        return hub.read_address(address, split)
    raise InputError(
        f"{path} is neither a file nor a known set nor a hub id (owner/name); known sets are {', '.join(PAIR_SETS)}."
        f"{meant(str(path), PAIR_SETS)}"
    )


def pairs_of(table: Table, name_or_path: str | Path, columns: Sequence[str] | None) -> PairSet:
    """The pairs of a table, by the columns that `load_pairs` takes."""
    if columns is not None and len(columns) not in (2, 3):
        raise InputError(
            f"{len(columns)} columns were named for {table.source}; name two sentence columns and, maybe, a score."
        )
    first, second, *score = columns or ("sentence1", "sentence2", *(["score"] if "score" in table.columns else []))
    return PairSet(
        name=Path(name_or_path).name,
        split=table.split,
        first=table.texts(first),
        second=table.texts(second),
        scores=table.scores(score[0]) if score else None,
        subsets=None,
        source=table.source,
    )


def dev_pairs(graded: PairSet | None, data_dir: str | Path | None = None) -> list[PairSet]:
    """Graded pairs to make choices on: those that are given, and the dev sets of STS-B and SICK-R in a data folder."""
    found = [graded]
    for name in ("stsb", "sickr") if data_dir else ():
        with contextlib.suppress(SetNotFoundError):
            found.append(load_pairs(name, split="dev", data_dir=data_dir))
    return list({pairs.fingerprint(): pairs for pairs in found if pairs is not None}.values())
