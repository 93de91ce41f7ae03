"""The files of one model, in a folder or on the hub: found by their names, read strictly, named in every refusal."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from sparsecse.errors import InputError
from sparsecse.files import read_json

_MARK = b"\xef\xbb\xbf"


def find_file(source: str, name: str) -> Path | None:
    """A file of a local folder or of a hub model, as a local path; None where the model has no such file."""
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.exists() else None
    subfolder, _, filename = name.rpartition("/")
    found = cached_file(
        source,
        filename,
        subfolder=subfolder,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(found) if found else None


def inside(folder: str, name: str) -> str:
    """The name, inside a model, of a file in one of its folders; "" is its root."""
    return f"{folder}/{name}" if folder else name


class ModelFiles:
    """The files of the model `source`, by their names inside it."""

    def __init__(self, source: str):
        self.source = source

    def find(self, name: str) -> Path | None:
        """Where a file lies; None where the model has no such file."""
        return find_file(self.source, name)

    def json(self, name: str) -> dict[str, Any] | None:
        """The object that a JSON file holds; None where the model has no such file."""
        path = self.find(name)
        content = None if path is None else read_json(path)
        if content is not None and not isinstance(content, dict):
            raise InputError(f"{path} holds a {type(content).__name__}, not an object in braces; restore it.")
        return content

    @contextlib.contextmanager
    def unmarked(self, folder: str) -> Iterator[tuple[str, str]]:
        """The model and a folder in it for transformers to read a tokenizer from.

        Where text files of a local model have byte-order marks, which transformers takes for content, they are copies
        without.
        """
        place = Path(self.source) / folder
        texts = [path for path in place.iterdir() if path.suffix in (".json", ".txt")] if place.is_dir() else []
        if not any(map(_is_marked, texts)):
            yield self.source, folder
            return
        with tempfile.TemporaryDirectory() as copy:
            for path in texts:
                (Path(copy) / path.name).write_bytes(path.read_bytes().removeprefix(_MARK))
            yield copy, ""

    def check(self, name: str, content: Mapping[str, Any], known: Mapping[str, Sequence[Any] | None]) -> None:
        """Raise `InputError` for the first key of a file that is unknown or has a value that is not supported.

        known: for each key the supported values; None where any value is read or changes nothing.
        """
        for key, value in content.items():
            if key not in known:
                raise InputError(
                    f"{self.source}/{name} has the key {key} ({_short(value)}), which sparsecse does not know; "
                    f"remove it there if the vectors do not depend on it."
                )
            supported = known[key]
            if supported is not None and value not in supported:
                raise InputError(
                    f"{self.source}/{name}: {key} is {_short(value)}, and sparsecse supports "
                    f"{' and '.join(_short(choice) for choice in supported)} only."
                )


def _is_marked(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(_MARK)) == _MARK


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
