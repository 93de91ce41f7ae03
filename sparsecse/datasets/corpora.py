"""A corpus to embed: texts in their order, with ids where it has them, a few in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsecse.datasets.builtin import demo_sentences
from sparsecse.datasets.hub import address, open_address
from sparsecse.datasets.tables import TABLE_SUFFIXES, Rows, open_rows, table_suffix, text_lines
from sparsecse.errors import InputError
from sparsecse.reading import STDIN, check_whole_pairs, lines, shown
from sparsecse.settings import choose

INPUT_FORMATS = ("text", *(suffix[1:] for suffix in TABLE_SUFFIXES))
_COLUMNS = ("sentence", "text")


@dataclass(frozen=True)
class Corpus:
    """Texts that are read once.

    source: where they are from, for messages. count: how many, where that is known before they are read.
    rows: each text, and its id where there are ids. A text is what the file has, white space included.
    """

    source: str
    count: int | None
    rows: Iterator[tuple[str, str | None]]


def open_corpus(
    source: str | Path | Iterable[str],
    *,
    column: str | None = None,
    id_column: str | None = None,
    input_format: str | None = None,
) -> Corpus:
    """Open a corpus; what is wrong further on is said when it is reached.

    A row is a line of a text file, blank ones included, or a row of a table. A null, or a key that an object lacks, is
    an empty text.

    Args:
        source: a text file or table (`.gz` too, but for Parquet), `-` for standard input, `OWNER/NAME[:CONFIG][@SPLIT]`
            of the hub or a folder in its layout, `demo`; or texts.
        column: the table's column of texts; by default `sentence`, else `text`, else the only one.
        id_column: its column of ids, texts or whole numbers.
        input_format: one of `INPUT_FORMATS`; by default what the file's name says, and text.

    Raises:
        InputError: as `load_sentences`; a cell that is no text, or an id that is none; a column for what has none.
    """
    if input_format is not None:
        choose("input_format", input_format, INPUT_FORMATS)
    if not isinstance(source, (str, Path)):
        return _plain("the texts", None, _strings(source), column, id_column)
    if source == "demo":
        texts = demo_sentences()
        return _plain("demo", len(texts), iter(texts), column, id_column)
    path = STDIN if str(source) == "-" else Path(source)
    if path == STDIN and input_format == "parquet":
        raise InputError("Parquet cannot be read from standard input; give the file.")
    if path == STDIN or path.is_file():
        suffix = table_suffix(path) if input_format is None else f".{input_format}"
        if suffix is None or input_format == "text":
            # Who says that it is text is believed.
            return _plain(str(path), None, text_lines(path) if input_format is None else lines(path), column, id_column)
        return _cells(open_rows(path, suffix), column, id_column)
    if (place := address(str(source))) is None:
        raise InputError(f"{source} is neither a file nor a hub id (owner/name) nor `demo`; check the path.")
    if input_format is not None:
        raise InputError(f"`input_format` is of a file, and {source} is a data set; leave it out.")
    return _cells(open_address(place), column, id_column)


def _strings(texts: Iterable[Any]) -> Iterator[str]:
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"Text {position} is {shown(text)}, not a string.")
        check_whole_pairs(text, "Text", position)
        yield text


def _plain(source: str, count: int | None, texts: Iterator[str], column: str | None, id_column: str | None) -> Corpus:
    if named := column or id_column:
        raise InputError(f"A column ({named!r}) was named for {source}, which has none; leave it out.")
    return Corpus(source, count, ((text, None) for text in texts))


def _cells(table: Rows, column: str | None, id_column: str | None) -> Corpus:
    if column is None:
        column = next((name for name in _COLUMNS if name in table.columns), None)
    if column is None:
        if len(table.columns) > 1:
            raise InputError(
                f"{table.source} has several columns and none is called {' or '.join(_COLUMNS)}; name the one of the "
                f"texts with `column`: {', '.join(table.columns)}."
            )
        column = table.columns[0] if table.columns else _COLUMNS[-1]
    names = [column] if id_column is None else [column, id_column]
    # A table without rows may have no columns either.
    rows = table.select(names) if table.columns else iter(())
    return Corpus(table.source, table.count, _checked(table.source, names, rows))


def _checked(
    source: str, names: Sequence[str], rows: Iterator[tuple[str, tuple[Any, ...]]]
) -> Iterator[tuple[str, str | None]]:
    for place, (text, *ids) in rows:
        if text is not None and not isinstance(text, str):
            raise InputError(
                f"{source}, {place}, column {names[0]!r} is {shown(text)}, not text; name a column of texts with "
                f"`column`."
            )
        for one in ids:
            if isinstance(one, bool) or not isinstance(one, (str, int)):
                raise InputError(
                    f"{source}, {place}, column {names[1]!r} is {shown(one)}, neither text nor a whole number; give "
                    f"every row an id, or leave `id_column` out."
                )
        yield text or "", str(ids[0]) if ids else None
