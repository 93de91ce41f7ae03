"""SentEval's seven transfer tasks (MR, CR, SUBJ, MPQA, SST-2, TREC, MRPC) from a SentEval folder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from sparsecse.datasets import senteval
from sparsecse.datasets.pairs import SetNotFoundError
from sparsecse.datasets.sets import LabelledSplit, TransferSet
from sparsecse.datasets.tables import read_lines, rows_to_table
from sparsecse.errors import InputError, meant

# The files of each split below `downstream/`, in SentEval's own layout. Where a split has two files, SentEval gives
# the first one's sentences the label 1 and the second one's 0.
TRANSFER_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "mr": {"all": ("MR/rt-polarity.pos", "MR/rt-polarity.neg")},
    "cr": {"all": ("CR/custrev.pos", "CR/custrev.neg")},
    "subj": {"all": ("SUBJ/subj.objective", "SUBJ/subj.subjective")},
    "mpqa": {"all": ("MPQA/mpqa.pos", "MPQA/mpqa.neg")},
    "sst2": {split: (f"SST/binary/sentiment-{split}",) for split in ("train", "dev", "test")},
    "trec": {"train": ("TREC/train_5500.label",), "test": ("TREC/TREC_10.label",)},
    "mrpc": {split: (f"MRPC/msr_paraphrase_{split}.txt",) for split in ("train", "test")},
}

_CLASSES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("mr", "cr", "mpqa", "sst2"), ("negative", "positive")),
    "subj": ("subjective", "objective"),
    "trec": ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"),
    "mrpc": ("different", "paraphrase"),
}

# What SentEval reads these files as; a copy in UTF-8 is taken for what it is.
_FALLBACK = "latin-1"


def load_transfer(name: str, *, data_dir: str | Path | None = None) -> TransferSet:
    """Load a transfer task (`mr`, `cr`, `subj`, `mpqa`, `sst2`, `trec`, `mrpc`) in the layout of SentEval's folder.

    Args:
        name: a name of `TRANSFER_SETS`.
        data_dir: the folder that holds `downstream/`, or that one; else the environment's SPARSECSE_DATA_DIR.

    Raises:
        SetNotFoundError: no folder was given, or it lacks one of the task's files.
        InputError: an unknown name, or a broken file.
    """
    if name not in TRANSFER_SETS:
        near = meant(name, TRANSFER_SETS)
        raise InputError(f"There is no transfer task {name!r}; the known ones are {', '.join(TRANSFER_SETS)}.{near}")
    given = data_dir or os.environ.get("SPARSECSE_DATA_DIR")
    root = senteval.downstream(Path(given)) if given else Path()
    for files in TRANSFER_SETS[name].values():
        for file in files:
            if not given or not (root / file).is_file():
                raise SetNotFoundError(
                    f"The transfer task {name!r} was not found: give a SentEval folder that has it with `data_dir` or "
                    f"SPARSECSE_DATA_DIR (looked for {root / file})."
                )
    splits = {split: _read(name, [root / file for file in files]) for split, files in TRANSFER_SETS[name].items()}
    folder = root / Path(next(iter(TRANSFER_SETS[name].values()))[0]).parent
    return TransferSet(name, splits, _CLASSES[name], str(folder))


def _read(name: str, paths: Sequence[Path]) -> LabelledSplit:
    if len(paths) == 2:
        return _read_two_files(*paths)
    (path,) = paths
    return {"sst2": _read_sst, "trec": _read_trec, "mrpc": _read_mrpc}[name](path)


def _words(text: str) -> str:
    # SentEval splits sentences at white space and SimCSE joins them with single spaces.
    return " ".join(text.split())


def _read_two_files(positive: Path, negative: Path) -> LabelledSplit:
    texts: list[str] = []
    labels: list[int] = []
    for path, label in ((positive, 1), (negative, 0)):
        lines = read_lines(path, _FALLBACK)
        if not lines:
            raise InputError(f"{path} is empty; restore it.")
        # MPQA has blank lines that count as examples; SentEval's own encoders are given a full stop for them.
        texts += [_words(line) or "." for line in lines]
        labels += [label] * len(lines)
    return LabelledSplit(tuple(texts), None, tuple(labels))


def _read_sst(path: Path) -> LabelledSplit:
    rows = [(f"line {n}", line.split("\t")) for n, line in enumerate(read_lines(path), start=1) if line]
    table = rows_to_table(path, ("sentence", "label"), rows)
    texts = tuple(map(_words, table.texts("sentence")))
    return _filled(path, texts, None, _binary(path, table.places, table.column("label")))


def _read_trec(path: Path) -> LabelledSplit:
    texts, labels = [], []
    for number, line in enumerate(read_lines(path, _FALLBACK), start=1):
        if not line:
            continue
        match = re.fullmatch(r"\s*(\w+):\S*\s+(\S.*)", line)
        if match is None or match[1] not in _CLASSES["trec"]:
            raise InputError(
                f"{path}, line {number} is {line[:40]!r}; write it as `COARSE:fine question`, with COARSE one of "
                f"{', '.join(_CLASSES['trec'])}."
            )
        texts.append(_words(match[2]))
        labels.append(_CLASSES["trec"].index(match[1]))
    return _filled(path, tuple(texts), None, tuple(labels))


def _read_mrpc(path: Path) -> LabelledSplit:
    lines = [(f"line {n}", line.split("\t")) for n, line in enumerate(read_lines(path), start=1) if line]
    if not lines:
        raise InputError(f"{path} is empty; restore it.")
    table = rows_to_table(path, lines[0][1], lines[1:])
    first, second = (tuple(map(_words, table.texts(column))) for column in ("#1 String", "#2 String"))
    return _filled(path, first, second, _binary(path, table.places, table.column("Quality")))


def _binary(path: Path, places: Sequence[str], cells: Sequence[str]) -> tuple[int, ...]:
    for place, cell in zip(places, cells, strict=True):
        if cell.strip() not in ("0", "1"):
            raise InputError(f"{path}, {place}: the label is {cell!r}; write 0 or 1.")
    return tuple(map(int, cells))


def _filled(
    path: Path, first: tuple[str, ...], second: tuple[str, ...] | None, labels: tuple[int, ...]
) -> LabelledSplit:
    if not labels:
        raise InputError(f"{path} holds no labelled sentences; restore it.")
    return LabelledSplit(first, second, labels)
