"""Where exported files go: beside the model's own weights, or into a folder that loads without them."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from sparsecse.encoders import Encoder, is_stock, save_encoder
from sparsecse.encoders.model_files import ModelFiles
from sparsecse.encoders.sentence_transformers_settings import read_truncate_dim
from sparsecse.errors import InputError
from sparsecse.files import atomic_directory, atomic_file, read_json, write_json

# In a folder of exports only: the model that they are of, so that another one is not mixed in.
_ORIGIN_FILE = "export.json"


@contextlib.contextmanager
def staged(folder: Path, encoder: Encoder) -> Iterator[Path]:
    """Yield an empty folder; what is written there moves to `folder` at the end, or nothing does.

    A new or empty `folder` also gets the configuration, the tokenizer and sentence-transformers' files of the encoder.

    Raises:
        InputError: `folder` is a file, holds something else than this model, or cannot be written.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; give a folder for the exported model.")
        if not folder.exists() or not any(folder.iterdir()):
            with atomic_directory(folder) as stage:
                _write_companions(encoder, stage)
                yield stage
        else:
            _require_same_model(folder, encoder)
            # Inside the folder, so that moving is renaming.
            with tempfile.TemporaryDirectory(dir=folder, prefix=".export.") as temporary:
                stage = Path(temporary)
                yield stage
                _publish(stage, folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder} cannot be written ({reason}); choose another folder or make room in it.") from error


def _write_companions(encoder: Encoder, directory: Path) -> None:
    """Everything of a saved model but its weights."""
    save_encoder(encoder, directory, stock=is_stock(encoder.model.config))
    for path in directory.glob("model*.safetensors*"):
        path.unlink()
    write_json(directory / _ORIGIN_FILE, {"source": encoder.source, "fingerprint": _fingerprint(encoder)})


def _fingerprint(encoder: Encoder) -> str:
    """SHA-256 over the weights and what else decides a sentence's vector."""
    digest = hashlib.sha256(repr(encoder.settings).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


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
    origin = folder / _ORIGIN_FILE
    if not origin.exists() or read_json(origin).get("fingerprint") != _fingerprint(encoder):
        raise InputError(
            f"{folder} is not empty and does not hold the model {encoder.source}; "
            f"give a new folder, or the model's own to put the export beside its weights."
        )


def _publish(stage: Path, folder: Path) -> None:
    """Move the files one by one, the one that tools load last.

    Where there are several, its old version goes first: a stop in between leaves no model rather than a mixed one.
    """
    files = [path.relative_to(stage) for path in stage.rglob("*") if path.is_file()]
    *others, main = sorted(files, key=lambda path: path.suffix in (".onnx", ".xml"))
    if others:
        (folder / main).unlink(missing_ok=True)
    for path in (*others, main):
        with atomic_file(folder / path) as temporary:
            (stage / path).replace(temporary)
