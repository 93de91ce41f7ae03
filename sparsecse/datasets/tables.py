"""Text and table files read whole, every complaint with the file and the line it is about."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsecse.errors import InputError

TABLE_SUFFIXES = (".tsv", ".csv", ".jsonl", ".json", ".parquet")


def read_text(path: Path, fallback: str | None = None) -> str:
    """Read a UTF-8 file, with or without a byte-order mark; a name that ends in `.gz` is decompressed first.

    fallback: the encoding of a file that is not UTF-8; without it such a file raises `InputError`.
    """
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            if fallback is None:
                raise
            return data.decode(fallback)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); convert it to UTF-8.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); give a whole, readable file.") from None


def read_lines(path: Path, fallback: str | None = None) -> list[str]:
    """Read a text file's lines, without their ends; `fallback` as in `read_text`.

    Only line feeds end a line: `str.splitlines` also cuts at characters that occur inside sentences (U+0085, U+2028).
    """
    lines = read_text(path, fallback).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def parse_score(value: Any, where: str) -> float:
    """Turn a cell into a gold score, a finite number from 0 to 5; `where` begins the complaint if it is not one."""
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not 0 <= score <= 5:
        raise InputError(f"{where}: the gold score is {value!r}; give a number from 0 to 5 or drop the row.")
    return score


@dataclass(frozen=True)
class Table:
    """A table's columns by name, and where in the file (`line 7`) each row stands."""

    path: Path
    columns: dict[str, list[Any]]
    places: list[str]

    def column(self, name: str) -> list[Any]:
        """The cells of a column; `InputError` if there is none of that name."""
        if name not in self.columns:
            present = ", ".join(self.columns)
            raise InputError(f"{self.path} has no column {name!r}; the columns present are {present}.")
        return self.columns[name]

    def texts(self, name: str) -> tuple[str, ...]:
        """A column of sentences, stripped; a blank or non-text cell raises `InputError`."""
        return tuple(
            self._text(value, place, name) for value, place in zip(self.column(name), self.places, strict=True)
        )

    def scores(self, name: str) -> tuple[float, ...]:
        """A column of gold scores; a cell that is no number from 0 to 5 raises `InputError`."""
        return tuple(
            parse_score(value, f"{self.path}, {place}, column {name!r}")
            for value, place in zip(self.column(name), self.places, strict=True)
        )

    def _text(self, value: Any, place: str, name: str) -> str:
        if not isinstance(value, str) or not value.strip():
            found = "blank" if value is None or isinstance(value, str) else f"{value!r}, not text"
            raise InputError(f"{self.path}, {place}, column {name!r} is {found}; fill in a sentence or drop the row.")
        return value.strip()


def read_table(path: Path) -> Table:
    """Read a table by the end of its name: .tsv (no quoting), .csv (quoted), .jsonl, .json (a list) or .parquet.

    The first line of a TSV or CSV file names the columns. Text formats may be compressed (`.csv.gz`).

    Raises:
        InputError: the file is missing, broken, of another kind, or has no rows.
    """
    suffix = table_suffix(path)
    if suffix == ".parquet":
        table = _read_parquet(path)
    elif suffix in (".jsonl", ".json"):
        table = _from_objects(path, _jsonl_objects(path) if suffix == ".jsonl" else _json_objects(path))
    elif suffix in (".tsv", ".csv"):
        table = _from_rows(path, _tsv_rows(path) if suffix == ".tsv" else _csv_rows(path))
    else:
        raise InputError(f"{path} is not a table this program reads; give one of {', '.join(TABLE_SUFFIXES)}.")
    if not table.places:
        raise InputError(f"{path} has no rows; give a file with data.")
    return table


def table_suffix(path: Path) -> str | None:
    """The table format that a file's name tells (`.csv`, also for `x.csv.gz`), or None for any other file."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in TABLE_SUFFIXES if name.endswith(suffix)), None)


def rows_to_table(path: Path, header: Sequence[str], rows: list[tuple[str, list[str]]]) -> Table:
    """Make a table of (place, cells) rows, each as long as the header."""
    duplicates = sorted({name for name in header if list(header).count(name) > 1})
    if duplicates:
        raise InputError(f"{path} names column {duplicates[0]!r} twice in its first line; rename one.")
    for place, cells in rows:
        if len(cells) != len(header):
            raise InputError(f"{path}, {place} has {len(cells)} columns where the header has {len(header)}; mend it.")
    columns = {name: [cells[index] for _, cells in rows] for index, name in enumerate(header)}
    return Table(path, columns, [place for place, _ in rows])


def _from_rows(path: Path, rows: Iterator[tuple[str, list[str]]]) -> Table:
    _, header = next(rows, ("", []))
    if not header:
        raise InputError(f"{path} is empty; its first line must name the columns.")
    return rows_to_table(path, [name.strip() for name in header], list(rows))


def _tsv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(read_lines(path), start=1):
        if line:
            yield f"line {number}", line.split("\t")


def _csv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for cells in reader:
            if cells:
                yield f"line {reader.line_num}", cells
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num} is not valid CSV ({error}); mend its quotes.") from None


def _jsonl_objects(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path}, line {number} is not valid JSON ({error}); mend or drop it.") from None


def _json_objects(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        items = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON ({error}); for one object a line, name it .jsonl.") from None
    if not isinstance(items, list):
        raise InputError(f"{path} holds no list; give a list of objects, or one object a line in a .jsonl file.")
    yield from ((f"item {number}", item) for number, item in enumerate(items, start=1))


def _from_objects(path: Path, objects: Iterator[tuple[str, Any]]) -> Table:
    rows = list(objects)
    for place, row in rows:
        if not isinstance(row, dict):
            raise InputError(f'{path}, {place} is no JSON object; write it as {{"column": value}}.')
    names = dict.fromkeys(name for _, row in rows for name in row)
    return Table(path, {name: [row.get(name) for _, row in rows] for name in names}, [place for place, _ in rows])


def _read_parquet(path: Path) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = file.read().to_pydict()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path.") from None
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is not a readable Parquet file ({reason}); write it again.") from None
    count = len(next(iter(columns.values()), []))
    return Table(path, columns, [f"row {number}" for number in range(1, count + 1)])
