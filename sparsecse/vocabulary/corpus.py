"""Text files of any size as one stream of sentences that can be read again."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from sparsecse.datasets.tables import TABLE_SUFFIXES
from sparsecse.errors import InputError


class Corpus:
    """The lines of one or many text files, stripped, without blank ones; never more than a line in memory.

    Like `datasets.load_sentences`, but read anew by every loop over it and with repeated sentences left in, since how
    often a token occurs is what counts here.

    Args:
        paths: UTF-8 text files, one sentence a line; a name that ends in `.gz` is decompressed while reading.

    Raises:
        InputError: no file is given; one is missing or is a table. While reading: one is no UTF-8 text, is cut off, or
            holds no sentence.
    """

    def __init__(self, paths: Sequence[str | Path]):
        self.paths = tuple(Path(path) for path in paths)
        if not self.paths:
            raise InputError("The corpus has no files; give one or more text files with one sentence a line.")
        for path in self.paths:
            if not path.is_file():
                raise InputError(f"{path} is not a file; give text files with one sentence a line.")
            if path.name.lower().removesuffix(".gz").endswith(TABLE_SUFFIXES):
                raise InputError(f"{path} is a table; write its sentences into a text file, one a line, and give that.")

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            empty = True
            for line in _lines(path):
                if stripped := line.strip():
                    empty = False
                    yield stripped
            if empty:
                raise InputError(f"{path} holds no sentences; give a file with one sentence a line.")


def _lines(path: Path) -> Iterator[str]:
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            # Bytes end lines at line feeds only, as `datasets` does: text mode also cuts at a lone carriage return.
            for number, line in enumerate(stream, start=1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}, line {number} is not UTF-8 text; convert the file to UTF-8.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); give a whole, readable file.") from None
