"""Files written whole or not at all, and the content hashes that stages compare."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sparsecse import disk
from sparsecse.errors import InputError
from sparsecse.reading import parse_json, shown, whole_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


def _permit(path: Path, like: int) -> None:
    """Give a file the permissions that a plainly created one has: some writers (safetensors) keep theirs to the owner.

    like: the mode of a file or folder that was made under the umask in force.
    """
    allowed = like & 0o666
    mode = path.stat().st_mode
    if mode & allowed != allowed:
        path.chmod(mode | allowed)


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")


_LEFT = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp(\.old)?", re.DOTALL)


def left_from(path: Path) -> str | None:
    """The file or folder whose content was written, or kept, beside it under a path's name; None for other names."""
    found = _LEFT.fullmatch(path.name)
    return found and found[1]


def meant_by(path: str | Path) -> Path:
    """A path with the names of what is being written in place of the temporary ones."""
    return Path(*(left_from(Path(part)) or part for part in Path(path).parts))


@contextlib.contextmanager
def held(folder: Path, *, wait: bool = False) -> Iterator[bool | None]:
    """Hold a folder that exists for this process: yields True, or False where another process has it.

    None where the system, or a network file system, has no such locks; that is then the user's care.
    wait: until another process lets it go.
    """
    if fcntl is None:
        yield None
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            alone: bool | None = True
        except BlockingIOError:
            alone = False
        except OSError:
            alone = None
        yield alone
    finally:
        os.close(descriptor)


def remove_abandoned(target: Path) -> None:
    """Delete the folders that killed processes left beside `target`; one that a living process fills stays."""
    for folder in target.parent.iterdir():
        if left_from(folder) == target.name and folder.is_dir():
            with contextlib.suppress(OSError), held(folder) as abandoned:  # another process may have deleted it
                if abandoned:
                    disk.remove(folder)


@contextlib.contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` to prepare it in; what is under its name at the end is deleted."""
    folder = _beside(target)
    folder.mkdir()
    try:
        with held(folder), _naming(target):
            yield folder
    finally:
        if folder.exists():
            disk.remove(folder)


@contextlib.contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Let an `OSError` of writing name the target where it names no file; what safetensors and torch make of it too."""
    try:
        yield
    except RuntimeError as error:
        cause = error.__context__
        if not isinstance(cause, OSError) or cause.errno is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(target)) from error
    except SafetensorError as error:
        code = _SYSTEM_ERROR.search(str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(target)) from error
    except OSError as error:
        # A copy of a file names the file that it read.
        if error.errno is not None and (error.filename is None or error.filename2 is not None):
            error.filename, error.filename2 = str(target), None
        raise


@contextlib.contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it replaces `target` in one rename, on failure `target` is untouched.

    Whatever writes it, its permissions follow the umask.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    temporary.touch()
    permissions = temporary.stat().st_mode
    try:
        with _naming(target):
            yield temporary
        _permit(temporary, permissions)
        disk.sync(temporary)
        disk.rename(temporary, target)
    except BaseException:
        disk.remove(temporary)
        raise
    disk.sync(target.parent)


@contextlib.contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it takes the place of `target`, on failure `target` is untouched.

    A folder cannot be renamed over a full one, so the two exchange their names and the old one is deleted last
    (`disk.swap`). A kill leaves the old folder or the new one whole at `target`, and maybe another beside, under a name
    that starts with a dot. The permissions of all files in it follow the umask.
    """
    target = target.resolve()  # what a link leads to is replaced there, and the link stays
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch(target) as folder:
        yield folder
        settle(folder)
        if target.exists():
            disk.swap(folder, target)
        else:
            disk.rename(folder, target)
        disk.sync(target.parent)
    remove_abandoned(target)


def settle(folder: Path) -> None:
    """Wait until all of a folder is on the disk, the permissions of its files following the umask."""
    permissions = folder.stat().st_mode
    for path in folder.rglob("*"):
        if path.is_file():
            _permit(path, permissions)
        disk.sync(path)
    disk.sync(folder)


def discard(folder: Path) -> None:
    """Delete a folder so that no part of it is left under its name, whenever the process ends."""
    temporary = _beside(folder)
    disk.rename(folder, temporary)
    disk.remove(temporary)


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write JSON atomically, indented and with a final newline; NaN is refused."""
    write_text(target, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file, with or without a byte-order mark; a missing or broken one raises `InputError`."""
    return parse_json(whole_text(path), str(path), "restore it or write it again")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: a missing or broken one, a whole number beyond 64 bits, or a text that no path or option can be.
    """
    text = whole_text(path)
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # Python has a limit of digits besides the errors of TOML
        raise InputError(f"{path} is not valid TOML ({error}); mend it there.") from None
    for name, value in content.items():
        _check_toml(f"{path}: {name}", value)
    return content


def _check_toml(place: str, value: Any) -> None:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InputError(f"{place} has a number of more than 64 bits, which TOML does not have; mend it there.")
    if isinstance(value, str) and "\0" in value:
        raise InputError(f"{place} has a null character in a text ({shown(value)}); drop it.")
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_toml(place, each)


def weight_bytes(folder: Path) -> int | None:
    """Bytes of a model's weight files, exports and tokenizer not counted; None where `folder` is no folder."""
    if not folder.is_dir():
        return None
    return sum(path.stat().st_size for place in _places(folder) for path in _weights(place))


def loaded_bytes(folder: Path) -> int | None:
    """Bytes of the files that a model is loaded from; None where `folder` is no folder.

    Weights, configurations, tokenizer and modelling code are counted; the card, exports and what other programs left
    are not.
    """
    if not folder.is_dir():
        return None
    files = [path for place in _places(folder) for path in (*_weights(place), *_settings(place))]
    return sum(path.stat().st_size for path in files)


# Beside a model, and read by nothing that loads it.
PROVENANCE_FILE = "sparsecse.json"
"""In a packed folder: where the model is from; its `files` are those that `pack` wrote."""
EXPORTS_FILE = "export.json"
"""In a folder with exports: its `files` are those that `export` wrote."""
STAGING = "export"
"""Beside a model, under a name that `left_from` knows, is where `export` prepares its files."""


def _places(folder: Path) -> list[Path]:
    """Where a model's files lie: sentence-transformers keeps those of its own modules in folders like 2_Dense."""
    return [folder, *(path for path in folder.glob("[0-9]*_*") if path.is_dir())]


def _weights(place: Path) -> list[Path]:
    # A folder with both formats holds the same weights twice.
    return list(place.glob("*.safetensors")) or list(place.glob("pytorch_model*.bin"))


def _settings(place: Path) -> list[Path]:
    """Configurations, tokenizer and modelling code."""
    files = (path for path in place.iterdir() if path.is_file() and path.name not in (PROVENANCE_FILE, EXPORTS_FILE))
    return [path for path in files if path.suffix in (".json", ".txt", ".model", ".py")]


def text_hash(text: str) -> str:
    """SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def texts_hash(texts: Sequence[str]) -> str:
    """SHA-256 of texts in their order, in hex."""
    return text_hash(json.dumps(list(texts)))


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_once(path: Path) -> str:
    """`file_hash`, read once a process unless the file is written again."""
    found = path.stat()
    return _hash_of(path.resolve(), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


@functools.cache
def _hash_of(path: Path, *state: int) -> str:
    return file_hash(path)
