"""The demo set that ships inside the package, so that everything runs offline."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path

from sparsecse.datasets.senteval import GradedPairs
from sparsecse.datasets.tables import read_lines, read_table

_FOLDER = files("sparsecse.datasets") / "demo"


def demo_pairs(split: str) -> GradedPairs:
    """The graded pairs of one split, `dev` or `test`."""
    with as_file(_FOLDER / "pairs.tsv") as path:
        table = read_table(path)
    rows = zip(
        table.column("split"), table.texts("sentence1"), table.texts("sentence2"), table.scores("score"), strict=True
    )
    kept = [row[1:] for row in rows if row[0] == split]
    first, second, scores = zip(*kept, strict=True)
    return GradedPairs(first, second, scores, None)


def demo_sentences() -> list[str]:
    """The unlabelled sentences, one a line."""
    with as_file(_FOLDER / "sentences.txt") as path:
        return read_lines(path)


def demo_retrieval() -> AbstractContextManager[Path]:
    """The folder of the retrieval set, in BEIR's layout, with the splits `dev` and `test`."""
    return as_file(_FOLDER / "retrieval")
