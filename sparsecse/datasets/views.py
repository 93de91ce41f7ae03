"""Sentences without gold scores as a set to score on: each is its own positive under another dropout mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsecse.datasets.pairs import canonical_name, find_table, load_pairs, pairs_of
from sparsecse.datasets.sentences import draw_sentences, load_sentences
from sparsecse.datasets.sets import PairSet
from sparsecse.errors import InputError


@dataclass(frozen=True)
class DropoutViews(PairSet):
    """Distinct sentences, each paired with itself: two views that differ by their dropout masks (Gao et al. 2021).

    `first` and `second` are the same N sentences and `scores` is None.

    dropout: its probability, above 0; None is the model's own, or 0.1 where that is 0.
    seed: of the masks.
    """

    dropout: float | None = None
    seed: int = 0

    def sentences(self) -> list[str]:
        """The 2N views: all sentences, and all once more."""
        return [*self.first, *self.second]

    def positives(self, minimum: float = 4.0) -> list[tuple[int, int]]:
        """The two views of every sentence, as positions in `sentences()`; no gold score is asked for."""
        return [(row, len(self) + row) for row in range(len(self))]


def dropout_views(
    name_or_path: str | Path,
    *,
    split: str | None = None,
    data_dir: str | Path | None = None,
    columns: Sequence[str] | None = None,
    limit: int = 3000,
    dropout: float | None = None,
    seed: int = 0,
) -> DropoutViews:
    """The sentences of `load_sentences` as `DropoutViews`.

    Args:
        limit: of more sentences that many are drawn by the seed; they keep their order.

    Raises:
        InputError: as `load_sentences`; fewer than two sentences.
    """
    sentences = load_sentences(name_or_path, split=split, data_dir=data_dir, columns=columns)
    return views_of(sentences, str(name_or_path), limit=limit, dropout=dropout, seed=seed)


def views_of(
    sentences: Sequence[str], source: str, *, limit: int = 3000, dropout: float | None = None, seed: int = 0
) -> DropoutViews:
    """Distinct sentences as `DropoutViews`; see `dropout_views`. source: where they are from."""
    sentences = draw_sentences(sentences, limit, seed)
    if len(sentences) < 2:
        raise InputError(f"{source} has one sentence, and uniformity needs two; give more sentences.")
    own = tuple(sentences)
    return DropoutViews(Path(source).name, "all", own, own, None, None, source, dropout, seed)


def graded_pairs(
    name_or_path: str | Path,
    *,
    split: str | None = None,
    data_dir: str | Path | None = None,
    columns: Sequence[str] | None = None,
) -> PairSet | None:
    """The pairs of `load_pairs` where they have gold scores; None for a text file, and a table without them.

    Raises:
        InputError: as `load_pairs`, for what is not text.
    """
    if canonical_name(name_or_path) is not None:
        return load_pairs(name_or_path, split=split, data_dir=data_dir, columns=columns)
    table = find_table(name_or_path, split)
    if table is None or (columns is not None and len(columns) == 1):
        return None
    if columns is None and "sentence1" not in table.columns and {"sentence", "text"} & set(table.columns):
        return None
    pairs = pairs_of(table, name_or_path, columns)
    return None if pairs.scores is None else pairs
