"""Text as users have it, opened in one way: compressed, with byte-order marks, of any line ends, in bounded memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import reprlib
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsecse.errors import InputError

MAX_LINE = 1 << 20
"""Bytes of the longest line that is read."""
MAX_WHOLE = 1 << 26
"""Bytes, decompressed, of the largest file that is read in one piece."""

STDIN = Path("/dev/stdin")
"""Standard input, where a text file can be read; once a process, and not compressed."""

# Deflate reaches 1032; text, even a table of repeated sentences, stays far below this.
_MAX_EXPANSION = 100
_EXPANSION_COUNTS_FROM = 1 << 22
_CR_INSIDE = re.compile(rb"\r[^\r\n]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def shown(value: Any) -> str:
    """A value as a message shows it: its `repr`, cut where that is long or deep."""
    return _REPR.repr(value)


def check_whole_pairs(text: str, kind: str, position: int) -> None:
    """Raise `InputError` for half of a surrogate pair, which no encoding can write and no tokenizer reads.

    kind, position: begin the complaint: "Sentence", 3.
    """
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{kind} {position} ({shown(text)}) has half of a surrogate pair (\\ud800 to \\udfff); drop it."
        ) from None


class NotUTF8Error(InputError):
    """Text in another encoding than UTF-8."""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[gzip.GzipFile | io.BufferedReader, io.BufferedReader]]:
    """The bytes of a file, decompressed where its name ends in `.gz`, and the file that they come from."""
    try:
        with open(0, "rb", closefd=False) if path == STDIN else path.open("rb") as file:
            if path.suffix.lower() == ".gz":
                with gzip.GzipFile(fileobj=file) as stream:
                    yield stream, file
            else:
                yield file, file
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); give a whole, readable file.") from None


def ended_lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """The lines of a text file with their ends, one in memory at a time.

    A name that ends in `.gz` is decompressed. A byte-order mark is dropped, wherever files were put together too. Only
    line feeds end a line: `str.splitlines` also cuts at characters that occur inside sentences (U+0085, U+2028).

    Raises:
        InputError: no such file, a cut-off one, bytes of another encoding; lines that end in carriage returns alone; a
            line of more than `MAX_LINE` bytes; compressed data that expand as no text does.
    """
    number = total = 0
    with _opened(path) as (stream, file):
        while line := stream.readline(MAX_LINE + 1):
            number += 1
            total += len(line)
            if number == 1 and _CR_INSIDE.search(line):
                raise InputError(f"{path} ends its lines with carriage returns alone; save it with line feeds.")
            if len(line) > MAX_LINE:
                raise InputError(f"{path}, line {number} is longer than {MAX_LINE >> 20} MiB; break it up or drop it.")
            if stream is not file and total > _EXPANSION_COUNTS_FROM and total > _MAX_EXPANSION * file.tell():
                raise InputError(
                    f"{path} expands to more than {_MAX_EXPANSION} times its size, as no text does; "
                    f"if it is right, decompress it first."
                )
            try:
                text = line.decode(encoding)
            except UnicodeDecodeError:
                raise NotUTF8Error(f"{path}, line {number} is not UTF-8 text; convert the file to UTF-8.") from None
            yield text.lstrip("\ufeff")


def lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """`ended_lines` without their ends."""
    return (line.removesuffix("\n").removesuffix("\r") for line in ended_lines(path, encoding))


def whole_text(path: Path) -> str:
    """The text of a file of at most `MAX_WHOLE` bytes, without a byte-order mark; decompressed as in `ended_lines`."""
    with _opened(path) as (stream, _):
        data = stream.read(MAX_WHOLE + 1)
    if len(data) > MAX_WHOLE:
        raise InputError(
            f"{path} is larger than {MAX_WHOLE >> 20} MiB in one piece; write a table as one object a line (.jsonl)."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotUTF8Error(f"{path} is not UTF-8 text (byte {error.start}); convert it to UTF-8.") from None


def parse_json(text: str, where: str, mend: str) -> Any:
    """The value of a JSON text; `where` begins and `mend` ends the complaint if it has none, or one that is unusable.

    Raises:
        InputError: no JSON, too many levels or digits, or half of a surrogate pair, which no encoding can write.
    """
    try:
        value = json.loads(text)
        if _SURROGATE_ESCAPE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        reason = "has too many levels of brackets"
    except json.JSONDecodeError as error:
        reason = f"is not valid JSON ({error})"
    except UnicodeEncodeError:
        reason = "has half of a surrogate pair (\\ud800 to \\udfff) in a text"
    except ValueError:
        reason = f"has a number of more than {sys.get_int_max_str_digits()} digits"
    else:
        return value
    raise InputError(f"{where} {reason}; {mend}.")
