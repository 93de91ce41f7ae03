"""Which files of a folder we wrote: whatever else lies there is the user's, and is neither replaced nor deleted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from sparsecse.errors import InputError
from sparsecse.files import EXPORTS_FILE, STAGING, file_hash, left_from, read_json


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path in it."""
    return {_name(path, folder): file_hash(path) for path in _entries(folder) if path.is_file()}


def listed(path: Path, key: str = "files") -> dict[str, str] | None:
    """The files that a JSON file lists: path in its folder -> SHA-256.

    None where there is no file, no such list in it, or a path that leaves the folder.

    key: `files`, or `replacing` of `export.json`: those that an export was about to put in place of earlier ones.
    """
    try:
        content = read_json(path)
    except (InputError, OSError):
        return None
    files = content.get(key) if isinstance(content, dict) else None
    return files if isinstance(files, dict) and all(map(_is_inside, files, files.values())) else None


def _is_inside(name: str, sha: object) -> bool:
    path = PurePosixPath(name)
    return isinstance(sha, str) and not path.is_absolute() and ".." not in path.parts


def foreign(folder: Path, own: Mapping[str, str | None]) -> list[str]:
    """What lies below a folder and is neither in `own` nor an export of ours.

    own: path in the folder -> SHA-256, or None where the contents do not matter. A file with others is the user's.
    """
    known = {name: None if sha is None else {sha} for name, sha in own.items()}
    for path in folder.rglob(EXPORTS_FILE):
        if listed(path) is not None:
            known[_name(path, folder)] = None
            known |= {_name(path.parent / name, folder): shas for name, shas in exported(path.parent).items()}
    return [
        name
        for path in _entries(folder)
        if not _is_own(path, name := _name(path, folder), known) and not _is_left(name)
    ]


def exported(folder: Path) -> dict[str, set[str]]:
    """The exports of ours in a folder, by their paths in it: the SHA-256 that each may have.

    There are two where an export ended in the middle of replacing an earlier one.
    """
    found: dict[str, set[str]] = {}
    for key in ("files", "replacing"):
        for name, sha in (listed(folder / EXPORTS_FILE, key) or {}).items():
            found.setdefault(name, set()).add(sha)
    return found


def in_words(names: list[str]) -> str:
    """Some of the names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _entries(folder: Path) -> Iterator[Path]:
    """Everything below a folder but the folders; a link to a folder is not followed."""
    return (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())


def _is_own(path: Path, name: str, known: Mapping[str, set[str] | None]) -> bool:
    if name not in known or not path.is_file():
        return False
    shas = known[name]
    return shas is None or file_hash(path) in shas


def _is_left(name: str) -> bool:
    """Whether a killed export left this, at the top of the folder that it exported to."""
    return left_from(Path(Path(name).parts[0])) == STAGING
