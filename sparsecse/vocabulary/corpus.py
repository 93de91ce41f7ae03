"""Text files of any size as one stream of sentences that can be read again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sparsecse.datasets.tables import sentence_lines, table_suffix
from sparsecse.errors import InputError


class Corpus:
    """The lines of one or many text files, stripped, without blank ones; never more than a line in memory.

    Like `datasets.load_sentences`, but read anew by every loop over it and with repeated sentences left in, since how
    often a token occurs is what counts here.

    Args:
        paths: UTF-8 text files, one sentence a line; a name that ends in `.gz` is decompressed while reading.

    Raises:
        InputError: no file is given; one is missing or is a table. While reading: as `tables.sentence_lines`, or
            one holds no sentence.
    """

    def __init__(self, paths: Sequence[str | Path]):
        self.paths = tuple(Path(path) for path in paths)
        if not self.paths:
            raise InputError("The corpus has no files; give one or more text files with one sentence a line.")
        for path in self.paths:
            if not path.is_file():
                raise InputError(f"{path} is not a file; give text files with one sentence a line.")
            if table_suffix(path) is not None:
                raise InputError(f"{path} is a table; write its sentences into a text file, one a line, and give that.")

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            empty = True
            for sentence in sentence_lines(path):
                empty = False
                yield sentence
            if empty:
                raise InputError(f"{path} holds no sentences; give a file with one sentence a line.")
