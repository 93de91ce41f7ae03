"""Tasks made of the user's own files: a path in the place of a task's name, and what is found there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sparsecse.datasets import PairSet, RerankingSet, load_pairs, load_reranking
from sparsecse.datasets.reranking import is_reranking
from sparsecse.datasets.tables import TABLE_SUFFIXES, read_table, table_suffix
from sparsecse.errors import InputError
from sparsecse.evaluation import labelled

Rows = Callable[[Sequence[str]], np.ndarray]
"""Sentences to their vectors [N, d], float32 as the encoder gives them."""


class OwnResult(Protocol):
    """What a task measured."""

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`.

        `kind` is `classification` or `clustering`; `measures` has the figures by name, in percent, the one to judge by
        first; `examples` counts what was tested.
        """


class OwnTask(Protocol):
    """A task of the user's own files that is measured on vectors of sentences."""

    @property
    def kind(self) -> str:
        """`classification` or `clustering`."""

    def sentences(self) -> list[str]:
        """The distinct sentences that the task needs embedded."""

    def fingerprint(self) -> str:
        """SHA-256 of the contents, in hex."""

    def measure(self, rows: Rows) -> OwnResult:
        """Measure the vectors of one model."""


def pairs_at(path: Path) -> Callable[[], PairSet] | None:
    """What loads a table of pairs of sentences with gold scores."""
    if not (path.is_file() and table_suffix(path)) or "sentence1" not in read_table(path).columns:
        return None

    def load() -> PairSet:
        pairs = load_pairs(path)
        if pairs.scores is None:
            raise InputError(f"{path} has no gold scores; add a column 'score' from 0 to 5.")
        return pairs

    return load


def _reranking(path: Path) -> Callable[[], RerankingSet] | None:
    """Queries with candidates each."""
    return (lambda: load_reranking(path)) if is_reranking(path) else None


Loaded = PairSet | RerankingSet | OwnTask

KINDS: list[tuple[Callable[[Path], Callable[[], Loaded] | None], str]] = [
    (pairs_at, "a table with the columns sentence1, sentence2, score (similarity)"),
    (_reranking, "one with query, positive, negative, the latter two lists of texts (reranking)"),
    (labelled.classification_at, "a folder with train.* and test.*, tables with the columns text, label (classes)"),
    (labelled.clustering_at, "a table with the columns text, label (clusters)"),
]
"""What a path can be: for each kind a function that recognises it, giving what loads it, and the kind in words."""


def is_own(path: Path) -> bool:
    """Whether a path is of one of `KINDS`."""
    return any(recognise(path) is not None for recognise, _ in KINDS)


def is_path(name: str) -> bool:
    """Whether a task's name is meant as a path: something is there, or it is written like a file's or folder's."""
    return Path(name).expanduser().exists() or "/" in name or table_suffix(Path(name)) is not None


def load_own(name: str) -> Loaded:
    """The task at a path: graded pairs, which are a similarity task, a reranking set, or another of `KINDS`.

    Raises:
        InputError: nothing there, or nothing of those kinds; a broken file; classes or clusters without scikit-learn.
    """
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(f"The task {name} does not exist; check the path.")
    for recognise, _ in KINDS:
        if load := recognise(path):
            return load()
    kinds = "; ".join([*(words for _, words in KINDS), "a folder with corpus.jsonl, queries.jsonl, qrels/ (retrieval)"])
    raise InputError(f"{name} is no task; give {kinds}; tables are {', '.join(TABLE_SUFFIXES)}.")
