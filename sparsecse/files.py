"""Files written whole or not at all, and the content hashes that stages compare."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sparsecse.reading import parse_json, whole_text

_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        if error.errno is not None and error.filename is None:
            error.filename = str(target)
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
        _fsync(temporary)
        temporary.replace(target)
        _fsync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it takes the place of `target`, on failure `target` is untouched.

    A folder cannot be renamed over a full one, so the old one is moved aside first and deleted last: a kill between
    the two renames leaves the old folder beside, under a name that starts with a dot, and nothing half-written. The
    permissions of all files in it follow the umask.
    """
    target = target.resolve()  # what a link leads to is replaced there, and the link stays
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    temporary.mkdir()
    permissions = temporary.stat().st_mode
    try:
        with _naming(target):
            yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                _permit(path, permissions)
            _fsync(path)
        if target.exists():
            aside = _beside(target)
            target.rename(aside)
            try:
                temporary.rename(target)
            except OSError:
                aside.rename(target)
                raise
            shutil.rmtree(aside)
        else:
            temporary.rename(target)
        _fsync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold a folder that exists for this process, and say whether no other process holds it.

    Where a system has no such locks, that is the user's care.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    alone = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        except OSError:  # network file systems that lock no folders
            pass
        yield alone
    finally:
        os.close(descriptor)


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
