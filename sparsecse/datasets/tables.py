"""Text and table files, every complaint with the file and the line it is about."""

from __future__ import annotations

import contextlib
import csv
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sparsecse.errors import InputError, meant
from sparsecse.reading import NotUTF8Error, ended_lines, lines, parse_json, shown, whole_text

TABLE_SUFFIXES = (".tsv", ".csv", ".jsonl", ".json", ".parquet")

ROWS_AT_A_TIME = 1024
"""Rows of Parquet and Arrow tables that are Python objects at a time."""

# What tells a table whose name does not: this many first lines with as many tabs each, or a header with such a name.
_LOOKED_AT = 20
_HEADER_NAMES = {"sentence1", "sentence2", "sentence", "text", "anchor", "positive", "sent0", "sent1"}


def read_lines(path: Path, fallback: str | None = None) -> list[str]:
    """All lines of a text file, without their ends; see `reading.ended_lines`.

    fallback: the encoding of a file that is not UTF-8; without it such a file raises `InputError`.
    """
    try:
        return list(lines(path))
    except NotUTF8Error:
        if fallback is None:
            raise
        return list(lines(path, fallback))


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, without their ends; one in memory at a time.

    Raises:
        InputError: as `reading.ended_lines`; the first lines are those of a table.
    """
    every = lines(path)
    first = list(islice(every, _LOOKED_AT))
    if suffix := _looks_like([line for line in first if line.strip()]):
        raise InputError(
            f"{path} is no text but a table by its first lines; let its name end in {suffix}, or give one sentence a "
            f"line and nothing else."
        )
    return chain(first, every)


def sentence_lines(path: Path) -> Iterator[str]:
    """`text_lines`, stripped, without blank ones."""
    return (line.strip() for line in text_lines(path) if line.strip())


def _looks_like(first: Sequence[str]) -> str | None:
    """The ending that a table with these first lines should have; None where they are no table's."""
    if not first:
        return None
    tabs = {line.count("\t") for line in first}
    if len(first) > 1 and len(tabs) == 1 and tabs != {0}:
        return ".tsv"
    if first[0].lstrip().startswith("{"):
        with contextlib.suppress(InputError):
            if isinstance(parse_json(first[0], "", ""), dict):
                return ".jsonl"
    for separator, suffix in (("\t", ".tsv"), (",", ".csv"), (";", ".csv")):
        names = [cell.strip().strip('"') for cell in first[0].split(separator)]
        if len(names) > 1 and _HEADER_NAMES & set(names) and all(re.fullmatch(r"[\w-]+", name) for name in names):
            return suffix
    return None


def parse_score(value: Any, where: str) -> float:
    """Turn a cell into a gold score, a finite number from 0 to 5; `where` begins the complaint if it is not one."""
    try:
        unusual = isinstance(value, bool) or (isinstance(value, str) and "_" in value)  # Python takes 0_4 for 4
        score = math.nan if unusual else float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not 0 <= score <= 5:
        raise InputError(f"{where}: the gold score is {shown(value)}; give a number from 0 to 5 or drop the row.")
    return score


@dataclass(frozen=True)
class Table:
    """A table's columns by name, and where (`line 7`) each row stands in the file or data set that `source` names.

    split: of a data set; decimal: what stands before the fraction of a number that is written as text.
    """

    source: str
    columns: dict[str, list[Any]]
    places: list[str]
    split: str = "all"
    decimal: str = "."

    def column(self, name: str) -> list[Any]:
        """The cells of a column; `InputError` if there is none of that name."""
        check_column(self.source, self.columns, name)
        return self.columns[name]

    def texts(self, name: str) -> tuple[str, ...]:
        """A column of sentences, stripped; a blank or non-text cell raises `InputError`."""
        return tuple(
            self._text(value, place, name) for value, place in zip(self.column(name), self.places, strict=True)
        )

    def scores(self, name: str) -> tuple[float, ...]:
        """A column of gold scores; a cell that is no number from 0 to 5 raises `InputError`."""
        return tuple(
            parse_score(self._number(value), f"{self.source}, {place}, column {name!r}")
            for value, place in zip(self.column(name), self.places, strict=True)
        )

    def _number(self, value: Any) -> Any:
        return value.replace(self.decimal, ".") if isinstance(value, str) else value

    def _text(self, value: Any, place: str, name: str) -> str:
        if not isinstance(value, str) or not value.strip():
            found = "blank" if value is None or isinstance(value, str) else f"{shown(value)}, not text"
            raise InputError(f"{self.source}, {place}, column {name!r} is {found}; fill in a sentence or drop the row.")
        return value.strip()


def read_table(path: Path) -> Table:
    """Read a table by the end of its name: .tsv (no quoting), .csv (quoted), .jsonl, .json (a list) or .parquet.

    The first line of a TSV or CSV file names the columns. What separates these in a CSV file, a comma, a semicolon or a
    tab, separates all cells; with semicolons a comma is also read as the decimal point of scores, as spreadsheets
    write both. Text formats may be compressed (`.csv.gz`).

    Raises:
        InputError: the file is missing, broken, of another kind, or has no rows; as `reading.ended_lines`.
    """
    suffix = table_suffix(path)
    if suffix == ".parquet":
        table = _read_parquet(path)
    elif suffix in (".jsonl", ".json"):
        table = _from_objects(path, _jsonl_objects(path) if suffix == ".jsonl" else _json_objects(path))
    elif suffix in (".tsv", ".csv"):
        table = _from_rows(path, _tsv_rows(path)) if suffix == ".tsv" else _read_csv(path)
    else:
        raise InputError(f"{path} is not a table this program reads; give one of {', '.join(TABLE_SUFFIXES)}.")
    if not table.places:
        raise InputError(f"{path} has no rows; give a file with data.")
    return table


def table_suffix(path: Path) -> str | None:
    """The table format that a file's name tells (`.csv`, also for `x.csv.gz`), or None for any other file."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in TABLE_SUFFIXES if name.endswith(suffix)), None)


def rows_to_table(path: Path, header: Sequence[str], rows: Iterable[tuple[str, list[str]]]) -> Table:
    """Make a table of (place, cells) rows, each as long as the header."""
    _check_header(path, header)
    table = Table(str(path), {name: [] for name in header}, [])
    for place, cells in _whole_rows(path, header, rows):
        table.places.append(place)
        for column, cell in zip(table.columns.values(), cells, strict=True):
            column.append(cell)
    return table


def _check_header(path: Path, header: Sequence[str]) -> None:
    duplicates = sorted({name for name in header if list(header).count(name) > 1})
    if duplicates:
        raise InputError(f"{path} names column {duplicates[0]!r} twice; rename one.")


def _whole_rows(
    path: Path, header: Sequence[str], rows: Iterable[tuple[str, list[str]]]
) -> Iterator[tuple[str, list[str]]]:
    for place, cells in rows:
        if cells and len(cells) != len(header):
            raise InputError(f"{path}, {place} has {len(cells)} columns where the header has {len(header)}; mend it.")
        if cells:
            yield place, cells


def _header(path: Path, rows: Iterator[tuple[str, list[str]]]) -> list[str]:
    header: list[str] = next((cells for _, cells in rows if cells), [])
    if not header:
        raise InputError(f"{path} is empty; its first line must name the columns.")
    return [name.strip() for name in header]


def _from_rows(path: Path, rows: Iterator[tuple[str, list[str]]]) -> Table:
    return rows_to_table(path, _header(path, rows), rows)


def _tsv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(lines(path), start=1):
        yield f"line {number}", line.split("\t") if line else []


def _read_csv(path: Path) -> Table:
    rows, delimiter = _open_csv(path)
    return replace(_from_rows(path, rows), decimal="," if delimiter == ";" else ".")


def _open_csv(path: Path) -> tuple[Iterator[tuple[str, list[str]]], str]:
    """The rows with their places, and what separates their cells."""
    stream = ended_lines(path)
    head = []
    for line in stream:
        head.append(line)
        if line.strip():
            break
    delimiter = _delimiter(path, head[-1]) if head else ","
    return _csv_rows(path, chain(head, stream), delimiter), delimiter


def _delimiter(path: Path, header: str) -> str:
    """What stands between the names of the columns, outside quotes."""
    unquoted = re.sub(r'"[^"]*"', "", header)
    found = [delimiter for delimiter in ",;\t" if delimiter in unquoted]
    if len(found) > 1:
        raise InputError(
            f"{path}, line 1 has {' and '.join(map(repr, found))} between or in the names of its columns, and one of "
            f"them must separate all cells; put names that contain the other into double quotes."
        )
    return found[0] if found else ","


def _csv_rows(path: Path, stream: Iterable[str], delimiter: str) -> Iterator[tuple[str, list[str]]]:
    reader = csv.reader(stream, delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            yield f"line {reader.line_num}", cells
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num} is not valid CSV ({error}); mend its quotes, or write cells of more than "
            f"{csv.field_size_limit():,} characters as .jsonl."
        ) from None


def _jsonl_objects(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines(path), start=1):
        if line.strip():
            yield f"line {number}", parse_json(line, f"{path}, line {number}", "mend or drop it")


def _json_objects(path: Path) -> Iterator[tuple[str, Any]]:
    items = parse_json(whole_text(path), str(path), "mend it, or for one object a line name it .jsonl")
    if not isinstance(items, list):
        raise InputError(f"{path} holds no list; give a list of objects, or one object a line in a .jsonl file.")
    yield from ((f"item {number}", item) for number, item in enumerate(items, start=1))


def _whole_objects(path: Path, objects: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for place, row in objects:
        if not isinstance(row, dict):
            raise InputError(f'{path}, {place} is no JSON object; write it as {{"column": value}}.')
        yield place, row


def _from_objects(path: Path, objects: Iterator[tuple[str, Any]]) -> Table:
    table = Table(str(path), {}, [])
    for count, (place, row) in enumerate(_whole_objects(path, objects)):
        table.places.append(place)
        for name in row:
            if name not in table.columns:
                table.columns[name] = [None] * count
        for name, column in table.columns.items():
            column.append(row.get(name))
    return table


@contextlib.contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_header(path, file.schema_arrow.names)
            yield file
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path.") from None
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is not a readable Parquet file ({reason}); write it again.") from None


def _python_values(path: Path, batch: Any) -> dict[str, list[Any]]:
    """The columns of a table or batch of pyarrow's."""
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[name] = column.to_pylist()
        except (ValueError, OverflowError) as error:  # text that is not UTF-8, times that Python does not have
            raise InputError(f"{path}, column {name!r} cannot be read ({error}); mend or drop it.") from None
    return columns


def _read_parquet(path: Path) -> Table:
    with _parquet_file(path) as file:
        columns = _python_values(path, file.read())
    count = len(next(iter(columns.values()), []))
    return Table(str(path), columns, [f"row {number}" for number in range(1, count + 1)])


@dataclass(frozen=True)
class Rows:
    """A table that is read once from its beginning, a few rows in memory at a time.

    source: the file or data set, for messages. columns: their names. count: its rows, where that is known before they
    are read. cells: where each row stands and what it has in the named columns.
    """

    source: str
    columns: tuple[str, ...]
    count: int | None
    cells: Callable[[Sequence[str]], Iterator[tuple[str, tuple[Any, ...]]]]

    def select(self, names: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """`cells`, of columns that there are."""
        for name in names:
            check_column(self.source, self.columns, name)
        return self.cells(names)


def check_column(source: str, columns: Collection[str], name: str) -> None:
    """Raise `InputError` where a table has no column of that name."""
    if name not in columns:
        present, near = ", ".join(columns), meant(name, columns)
        raise InputError(f"{source} has no column {name!r}; the columns present are {present}.{near}")


def open_rows(path: Path, suffix: str) -> Rows:
    """The table of `read_table`, to be read row by row; of a `.json` file all rows are in memory.

    suffix: one of `TABLE_SUFFIXES`, whatever the file's name says.

    Raises:
        InputError: as `read_table`, while the rows are read too; no rows are no error. A JSON object that lacks a
            column has None there, but the columns are those of the first one.
    """
    if suffix == ".parquet":
        return _open_parquet(path)
    if suffix in (".jsonl", ".json"):
        objects = _whole_objects(path, _jsonl_objects(path) if suffix == ".jsonl" else _json_objects(path))
        first = list(islice(objects, 1))
        names = tuple(name for _, row in first for name in row)
        return Rows(
            str(path),
            names,
            None,
            lambda wanted: ((place, tuple(map(row.get, wanted))) for place, row in chain(first, objects)),
        )
    rows = _tsv_rows(path) if suffix == ".tsv" else _open_csv(path)[0]
    header = _header(path, rows)
    _check_header(path, header)
    if len(header) == 1:  # a blank line is an empty cell then
        rows = ((place, row or [""]) for place, row in rows)

    def cells(wanted: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        places = [header.index(name) for name in wanted]
        return ((place, tuple(row[at] for at in places)) for place, row in _whole_rows(path, header, rows))

    return Rows(str(path), tuple(header), None, cells)


def _open_parquet(path: Path) -> Rows:
    with _parquet_file(path) as file:
        names, count = tuple(file.schema_arrow.names), file.metadata.num_rows

    def cells(wanted: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        with _parquet_file(path) as file:
            batches = file.iter_batches(ROWS_AT_A_TIME, columns=list(wanted))
            yield from numbered_rows(wanted, (_python_values(path, batch) for batch in batches))

    return Rows(str(path), names, count, cells)


def numbered_rows(
    names: Sequence[str], batches: Iterable[Mapping[str, Sequence[Any]]]
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Rows of batches of columns; their places are their numbers."""
    rows = (row for batch in batches for row in zip(*(batch[name] for name in names), strict=True))
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))
