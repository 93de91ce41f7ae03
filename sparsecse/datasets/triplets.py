"""Anchors, positives and hard negatives for supervised SimCSE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparsecse.datasets.pairs import canonical_name, find_table, load_pairs, pairs_of
from sparsecse.datasets.sets import TripletSet
from sparsecse.datasets.tables import Table
from sparsecse.errors import InputError

# The second is the header of SimCSE's own nli_for_simcse.csv.
_HEADERS = (("anchor", "positive", "negative"), ("sent0", "sent1", "hard_neg"))


def load_triplets(
    name_or_path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    split: str | None = None,
    data_dir: str | Path | None = None,
    minimum: float = 4.0,
) -> TripletSet:
    """Load triplets from a table (a file, hub id or folder, as in `load_pairs`), or the positive pairs of a pair set.

    A table has the columns `anchor`, `positive` and, if it has hard negatives, `negative` (or SimCSE's `sent0`, `sent1`
    and `hard_neg`, or those named in `columns`). A pair set, by name or as a file with `sentence1`, `sentence2` and
    `score`, gives its pairs with a score of at least `minimum`, without negatives.

    Raises:
        InputError: as `load_pairs`; a missing column; a blank cell; a pair set without positive pairs.
    """
    table = None if canonical_name(name_or_path) else find_table(name_or_path, split)
    if table is not None:
        if header := _header(table, columns):
            anchor, positive, *negative = header
            return TripletSet(
                name=Path(name_or_path).name,
                anchors=table.texts(anchor),
                positives=table.texts(positive),
                negatives=table.texts(negative[0]) if negative else None,
                source=table.source,
            )
        pairs = pairs_of(table, name_or_path, columns)
    else:
        pairs = load_pairs(name_or_path, split=split, data_dir=data_dir, columns=columns)
    sentences, positives = pairs.sentences(), pairs.positives(minimum)
    return TripletSet(
        name=pairs.name,
        anchors=tuple(sentences[a] for a, _ in positives),
        positives=tuple(sentences[b] for _, b in positives),
        negatives=None,
        source=f"{pairs.source}, pairs scored {minimum:g} and above",
    )


def _header(table: Table, columns: Sequence[str] | None) -> Sequence[str] | None:
    """The names of the anchor, positive and, where present, negative columns; None for a table of graded pairs."""
    if columns is not None:
        if len(columns) not in (2, 3):
            raise InputError(
                f"{len(columns)} columns were named for {table.source}; name an anchor, a positive, maybe a negative."
            )
        return columns
    for anchor, positive, negative in _HEADERS:
        if anchor in table.columns:
            return (anchor, positive, negative) if negative in table.columns else (anchor, positive)
    if "sentence1" in table.columns:
        return None
    raise InputError(
        f"{table.source} has neither the columns anchor and positive nor sentence1, sentence2 and score; the columns "
        f"present are {', '.join(table.columns)}: name the right ones."
    )
