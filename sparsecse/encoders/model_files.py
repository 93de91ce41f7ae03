"""The files of one model, in a folder or on the hub: found by their names, read strictly, named in every refusal."""

from __future__ import annotations

import contextlib
import json
import math
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from sparsecse.errors import InputError
from sparsecse.files import read_json
from sparsecse.reading import shown

_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Rule:
    """What a value must be; words end the sentence "it must be ..."."""

    holds: Callable[[Any], bool]
    words: str


def whole(low: int, *, null: bool = False) -> Rule:
    """A whole number from `low` up that 32 bits hold, or null where that is allowed."""
    return Rule(
        lambda value: (null and value is None) or (type(value) is int and low <= value < 2**31),
        f"a whole number from {low} to {2**31 - 1}" + ", or null" * null,
    )


def number(low: float, high: float = math.inf) -> Rule:
    """A finite number in a range, its ends included."""
    return Rule(
        lambda value: type(value) in (int, float) and low <= value <= high and value < math.inf,
        f"a number from {low} " + ("up" if high == math.inf else f"to {high}"),
    )


Known = Mapping[str, Sequence[Any] | Rule | None]
"""For each key the supported values or their rule; None where any value is read or changes nothing."""


def find_file(source: str, name: str) -> Path | None:
    """A file of a local folder or of a hub model, as a local path; None where the model has no such file.

    Raises:
        InputError: something else than a file lies there (reading a pipe might never end).
    """
    if Path(source).is_dir():
        path = Path(source) / name
        return path if _is_file(path) else None
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
        if path is None:
            return None
        content = read_json(path)
        if not isinstance(content, dict):
            raise InputError(f"{path} holds a {type(content).__name__}, not an object in braces; restore it.")
        return content

    @contextlib.contextmanager
    def unmarked(self, folder: str) -> Iterator[tuple[str, str]]:
        """The model and a folder in it for transformers to read a tokenizer from.

        Where text files of a local model have byte-order marks, which transformers takes for content, they are copies
        without.
        """
        place = Path(self.source) / folder
        inner = place.iterdir() if place.is_dir() else ()
        texts = [path for path in inner if path.suffix in (".json", ".txt") and _is_file(path)]
        if not any(map(_is_marked, texts)):
            yield self.source, folder
            return
        with tempfile.TemporaryDirectory() as copy:
            for path in texts:
                (Path(copy) / path.name).write_bytes(path.read_bytes().removeprefix(_MARK))
            yield copy, ""

    def check(self, name: str, content: Mapping[str, Any], known: Known, part: str = "") -> None:
        """Raise `InputError` for the first key of a file that is unknown or has a value that is not supported.

        part: where in the file the keys are, for the message.
        """
        for key, value in content.items():
            if key not in known:
                raise InputError(
                    f"{self.source}/{name} has the key {part}{key} ({_short(value)}), which sparsecse does not know; "
                    f"remove it there if the vectors do not depend on it."
                )
            supported = known[key]
            if isinstance(supported, Rule):
                if not supported.holds(value):
                    raise InputError(
                        f"{self.source}/{name}: {part}{key} is {shown(value)}; it must be {supported.words}."
                    )
            elif supported is not None and value not in supported:
                raise InputError(
                    f"{self.source}/{name}: {key} is {_short(value)}, and sparsecse supports "
                    f"{' and '.join(_short(choice) for choice in supported)} only."
                )


def _is_file(path: Path) -> bool:
    """Whether a file is there, or a link to one, as a hub cache has them; what is no file is refused."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        name = str(path) if len(str(path)) < 500 else f"{str(path)[:200]}..."
        raise InputError(f"{name} cannot be read ({error.strerror}); copy the model again.") from None
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is no file; copy the model again.")
    return True


def _is_marked(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(_MARK)) == _MARK


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
