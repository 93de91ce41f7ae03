"""The operations that name, swap and remove files and folders, and that wait for the disk.

The program does these nowhere else, and each goes through `perform`: a test that replaces it can end the process at any
one of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CANNOT_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
_HERE = -100  # AT_FDCWD: paths are relative to the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, and RENAME_SWAP of macOS


def perform(operation: Callable[..., Any], *arguments: Any) -> Any:
    """Call an operation on paths; every one of this module does so here."""
    return operation(*arguments)


def sync(path: Path) -> None:
    """Wait until the contents of a file, or the names in a folder, are on the disk."""
    perform(_sync, path)


def rename(source: Path, target: Path) -> None:
    """Give a file or folder another name in one step; a file there, or an empty folder, is replaced."""
    perform(os.replace, source, target)


def swap(new: Path, old: Path) -> None:
    """Let two folders exchange their names.

    In one step on Linux and macOS where the file system can, so that a whole folder always has the name. Else by way of
    a third name: after a kill the old folder may be left under that of `new` with `.old` after it.
    """
    if perform(_exchange, new, old):
        return
    aside = new.with_name(f"{new.name}.old")
    rename(old, aside)
    try:
        rename(new, old)
    except OSError:
        rename(aside, old)
        raise
    rename(aside, new)


def remove(path: Path) -> None:
    """Delete a file or a folder with what is in it, if it is there; what cannot be deleted stays."""
    perform(_remove, path)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # a folder cannot be opened there
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot."""
    call = _exchange_call()
    if call is None or call(os.fsencode(one), os.fsencode(other)) == 0:
        return call is not None
    code = ctypes.get_errno()
    if code in _CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))


@functools.cache
def _exchange_call() -> Callable[[bytes, bytes], int] | None:
    """The system's exchange of two paths, as a function that returns 0 or sets errno; None where there is none."""
    if sys.platform == "win32":
        return None
    library = ctypes.CDLL(None, use_errno=True)
    if (linux := getattr(library, "renameat2", None)) is not None:
        return lambda one, other: linux(_HERE, one, _HERE, other, _EXCHANGE)
    if (macos := getattr(library, "renamex_np", None)) is not None:
        return lambda one, other: macos(one, other, _EXCHANGE)
    return None
