"""Unlabelled sentences for training and distillation, from text, tables, pair sets or the demo."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import torch

from sparsecse.datasets.builtin import demo_sentences
from sparsecse.datasets.pairs import canonical_name, find_table, load_pairs
from sparsecse.datasets.tables import Table, sentence_lines
from sparsecse.errors import InputError
from sparsecse.reading import shown


def load_sentences(
    name_or_path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
    split: str | None = None,
) -> list[str]:
    """Load distinct sentences, in the order of their first occurrence, stripped, without blank ones.

    Args:
        name_or_path: `demo` (the built-in sentences; with `split`, those of its pairs), the name of a pair set, a text
            file with one sentence a line, a table (.tsv, .csv, .jsonl, .json, .parquet), or a data set of the hub or a
            folder as in `load_pairs`. Text may be .gz.
        columns: the table's sentence columns; by default `sentence`, else `text`, else `sentence1` and `sentence2`.
        data_dir: the SentEval folder in which a named pair set is looked for (see `load_pairs`).
        split: that of a named pair set or a data set of the hub.

    Raises:
        InputError: as `load_pairs`; a text file that is a table by its first lines; a cell that is not text; no
            sentence left.
    """
    name = canonical_name(name_or_path)
    path = Path(name_or_path)
    texts: Iterable[str]
    if name == "demo" and split is None and columns is None:
        texts = demo_sentences()
    elif name is not None:
        texts = load_pairs(name_or_path, split=split, data_dir=data_dir, columns=columns).sentences()
    elif (table := find_table(name_or_path, split)) is not None:
        texts = _table_sentences(table, columns)
    elif columns is not None:
        raise InputError(f"Columns were named for the text file {path}, which has none; leave them out.")
    else:
        texts = sentence_lines(path)
    sentences = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if not sentences:
        raise InputError(f"{path} holds no sentences; give a file with one sentence a line.")
    return sentences


def draw_sentences(sentences: Sequence[str], limit: int, seed: int = 0) -> Sequence[str]:
    """At most `limit` of the sentences, drawn by the seed; they keep their order."""
    if len(sentences) <= limit:
        return sentences
    drawn = torch.randperm(len(sentences), generator=torch.Generator().manual_seed(seed))[:limit]
    return [sentences[row] for row in sorted(drawn.tolist())]


def _table_sentences(table: Table, columns: Sequence[str] | None) -> Iterable[str]:
    if columns is None:
        defaults = (("sentence",), ("text",), ("sentence1", "sentence2"))
        columns = next((names for names in defaults if names[0] in table.columns), defaults[0])
    for name in columns:
        for value, place in zip(table.column(name), table.places, strict=True):
            if value is not None and not isinstance(value, str):
                raise InputError(
                    f"{table.source}, {place}, column {name!r} is {shown(value)}, not text; name a column of sentences."
                )
    return (text for text in chain.from_iterable(zip(*map(table.column, columns), strict=True)) if text is not None)
