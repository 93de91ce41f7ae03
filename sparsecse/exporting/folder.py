"""Where exported files go: beside the model's own weights, or into a folder that loads without them.

`export.json` in that folder lists them; a file that it does not list is not replaced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError

from sparsecse import disk
from sparsecse.encoders import Encoder, fingerprint, is_stock, save_encoder
from sparsecse.encoders.model_files import ModelFiles
from sparsecse.encoders.sentence_transformers_settings import read_truncate_dim
from sparsecse.errors import InputError
from sparsecse.files import (
    EXPORTS_FILE,
    STAGING,
    atomic_directory,
    file_hash,
    read_json,
    remove_abandoned,
    scratch,
    settle,
    write_json,
)
from sparsecse.manifest import contents, exported, in_words, listed


@contextlib.contextmanager
def staged(folder: Path, encoder: Encoder, name: Path) -> Iterator[Path]:
    """Yield an empty folder; what is written there moves to `folder` at the end, or nothing does.

    name: the main file that will be written, in the folder.

    A new or empty `folder` also gets the configuration, the tokenizer and sentence-transformers' files of the encoder.

    Raises:
        InputError: `folder` is a file, holds something else than this model or files of these names that `export` did
            not write, or cannot be written.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; give a folder for the exported model.")
        if not folder.exists() or not any(folder.iterdir()):
            with atomic_directory(folder) as stage:
                _write_companions(encoder, stage)
                companions = contents(stage)
                yield stage
                _list(stage, encoder, {path: sha for path, sha in contents(stage).items() if path not in companions})
        else:
            _require_same_model(folder, encoder)
            _require_own(folder, [name])
            # Inside the folder, so that moving is renaming.
            with scratch(folder / STAGING) as stage:
                yield stage
                _publish(stage, folder, encoder)
            remove_abandoned(folder / STAGING)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder} cannot be written ({reason}); choose another folder or make room in it.") from error


def _write_companions(encoder: Encoder, directory: Path) -> None:
    """Everything of a saved model but its weights."""
    save_encoder(encoder, directory, stock=is_stock(encoder.model.config))
    for path in directory.glob("model*.safetensors*"):
        disk.remove(path)


def _list(folder: Path, encoder: Encoder, files: Mapping[str, str], **more: Mapping[str, str]) -> None:
    """Record of which model the exports in a folder are, so that another one is not mixed in, and which files."""
    write_json(folder / EXPORTS_FILE, {"fingerprint": fingerprint(encoder), "files": dict(files), **more})


def _require_own(folder: Path, names: Sequence[Path]) -> None:
    """Refuse to replace files that `export` did not write, or that were changed since."""
    own = exported(folder)
    theirs = [
        name.as_posix()
        for name in names
        if (path := folder / name).exists() and file_hash(path) not in own.get(name.as_posix(), ())
    ]
    if listed(folder / EXPORTS_FILE) is None and (folder / EXPORTS_FILE).exists():
        theirs.append(EXPORTS_FILE)
    if theirs:
        raise InputError(
            f"{folder} has files that `sparsecse export` did not write, or that were changed since, and would replace "
            f"({in_words(theirs)}); move them away, or give another `out`."
        )


def _require_same_model(folder: Path, encoder: Encoder) -> None:
    if folder.resolve() == Path(encoder.source).resolve():
        # sentence-transformers cuts the vectors of the folder as its file says.
        kept = read_truncate_dim(ModelFiles(str(folder))) or encoder.dimension
        if kept != encoder.width():
            raise InputError(
                f"{folder} keeps {kept} values of a vector, and the export has `truncate_dim` {encoder.width()}; give "
                f"a new folder for it."
            )
        return
    path = folder / EXPORTS_FILE
    if listed(path) is None or read_json(path).get("fingerprint") != fingerprint(encoder):
        raise InputError(
            f"{folder} is not empty and does not hold the model {encoder.source}; "
            f"give a new folder, or the model's own to put the export beside its weights."
        )


def _publish(stage: Path, folder: Path, encoder: Encoder) -> None:
    """Move the files one by one, the one that tools load last.

    Where there are several, its old version goes first: a stop in between leaves no model rather than a mixed one.
    """
    written = contents(stage)
    files = [Path(name) for name in written]
    _require_own(folder, files)
    settle(stage)
    before = listed(folder / EXPORTS_FILE) or {}

    def move(path: Path) -> None:
        (folder / path).parent.mkdir(exist_ok=True)
        disk.rename(stage / path, folder / path)
        disk.sync((folder / path).parent)

    # Whichever of the two a file is when this ends early, the next export knows it for ours.
    _list(stage, encoder, before, replacing=written)
    move(Path(EXPORTS_FILE))
    *others, main = sorted(files, key=lambda path: path.suffix in (".onnx", ".xml"))
    if others:
        disk.remove(folder / main)
    for path in (*others, main):
        move(path)
    _list(stage, encoder, {**before, **written})
    move(Path(EXPORTS_FILE))
