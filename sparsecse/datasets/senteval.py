"""STS12-16, STS-B and SICK from a SentEval folder, read as SimCSE's evaluation reads them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sparsecse.datasets.tables import Table, read_lines, rows_to_table
from sparsecse.errors import InputError

logger = logging.getLogger(__name__)

# Below `downstream/`, in SentEval's own layout.
FILES = {
    "stsb": {split: f"STS/STSBenchmark/sts-{split}.csv" for split in ("train", "dev", "test")},
    "sickr": {
        "train": "SICK/SICK_train.txt",
        "dev": "SICK/SICK_trial.txt",
        "test": "SICK/SICK_test_annotated.txt",
    },
    **{f"sts{year}": {"test": f"STS/STS{year}-en-test"} for year in (12, 13, 14, 15, 16)},
}

# SentEval evaluates exactly these; STS13's fourth subset, SMT, is not free and not part of the protocol.
SUBSETS = {
    "STS12-en-test": ("MSRpar", "MSRvid", "SMTeuroparl", "surprise.OnWN", "surprise.SMTnews"),
    "STS13-en-test": ("FNWN", "headlines", "OnWN"),
    "STS14-en-test": ("deft-forum", "deft-news", "headlines", "images", "OnWN", "tweet-news"),
    "STS15-en-test": ("answers-forums", "answers-students", "belief", "headlines", "images"),
    "STS16-en-test": ("answer-answer", "headlines", "plagiarism", "postediting", "question-question"),
}

_STSB_HEADER = ("genre", "file", "year", "id", "score", "sentence1", "sentence2")


class GradedPairs(NamedTuple):
    """The columns of a pair set before it has a name."""

    first: Sequence[str]
    second: Sequence[str]
    scores: Sequence[float]
    subsets: Sequence[str] | None


def locate(name: str, split: str, data_dir: Path) -> Path:
    """The file (STS12-16: the folder) of a set below `data_dir`, which holds `downstream/` or is it."""
    return downstream(data_dir) / FILES[name][split]


def downstream(data_dir: Path) -> Path:
    """The folder `downstream/` that `data_dir` holds or is."""
    if not data_dir.is_dir():
        raise InputError(f"The data folder {data_dir} does not exist; give the SentEval folder that holds downstream/.")
    inside = data_dir / "downstream"
    return inside if inside.is_dir() else data_dir


def read(path: Path) -> GradedPairs:
    """Read what `locate` found; pairs without a gold score are left out."""
    if path.is_dir():
        return _read_sts_year(path)
    if path.name.startswith("SICK"):
        return _graded(_read_sick(path), "sentence_A", "sentence_B", "relatedness_score")
    return _graded(_read_stsb(path), "sentence1", "sentence2", "score")


def _read_sts_year(folder: Path) -> GradedPairs:
    official = SUBSETS[folder.name]
    present = [subset for subset in official if (folder / f"STS.input.{subset}.txt").exists()]
    if not present:
        raise InputError(f"{folder} holds no STS.input.*.txt of {', '.join(official)}; restore the SentEval folder.")
    if absent := [subset for subset in official if subset not in present]:
        logger.warning("%s lacks %s: its score cannot be compared with published ones.", folder, ", ".join(absent))
    first: list[str] = []
    second: list[str] = []
    scores: list[float] = []
    subsets: list[str] = []
    for subset in present:
        inputs, golds = folder / f"STS.input.{subset}.txt", folder / f"STS.gs.{subset}.txt"
        texts, grades = read_lines(inputs), read_lines(golds)
        if len(texts) != len(grades):
            raise InputError(f"{inputs} has {len(texts)} lines but {golds.name} has {len(grades)}; restore both files.")
        # STS16's input lines go on with where the sentences came from: only the first two columns count.
        rows = [
            (f"line {number}", [*line.split("\t")[:2], grade])
            for number, (line, grade) in enumerate(zip(texts, grades, strict=True), start=1)
        ]
        columns = ("sentence1", "sentence2", "score")
        pairs = _graded(rows_to_table(inputs, columns, rows), *columns)
        first.extend(pairs.first)
        second.extend(pairs.second)
        scores.extend(pairs.scores)
        subsets.extend([subset] * len(pairs.scores))
    return GradedPairs(first, second, scores, subsets)


def _read_stsb(path: Path) -> Table:
    width = len(_STSB_HEADER)  # what follows are licence columns
    rows = [(f"line {n}", line.split("\t")[:width]) for n, line in enumerate(read_lines(path), start=1) if line]
    return rows_to_table(path, _STSB_HEADER, rows)


def _read_sick(path: Path) -> Table:
    lines = [(f"line {n}", line.split("\t")) for n, line in enumerate(read_lines(path), start=1) if line]
    if not lines:
        raise InputError(f"{path} is empty; restore it.")
    return rows_to_table(path, lines[0][1], lines[1:])


def _graded(table: Table, first: str, second: str, score: str) -> GradedPairs:
    kept = [index for index, grade in enumerate(table.column(score)) if grade.strip()]
    columns = {name: [cells[index] for index in kept] for name, cells in table.columns.items()}
    table = replace(table, columns=columns, places=[table.places[index] for index in kept])
    return GradedPairs(table.texts(first), table.texts(second), table.scores(score), None)
