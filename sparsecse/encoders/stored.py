"""What a model's weight files hold: names, shapes and types of tensors, known before any of them is loaded."""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from sparsecse.encoders.model_files import ModelFiles, inside
from sparsecse.errors import InputError
from sparsecse.reading import shown

WEIGHTS_FILE = "model.safetensors"
PICKLE_FILE = "pytorch_model.bin"
# In the order in which transformers looks for them.
_INDEXES = {WEIGHTS_FILE: "model.safetensors.index.json", PICKLE_FILE: "pytorch_model.bin.index.json"}
_KINDS = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint"}
_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in a file; dtype is torch's name of it."""

    file: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def is_float(self) -> bool:
        return self.dtype in _FLOATS

    def parts(self, count: int) -> list[Stored]:
        """Equal parts by rows; one that has none stays whole, and fits nowhere."""
        rows, rest = divmod(self.shape[0], count) if self.shape else (0, 1)
        return [self if rest else replace(self, shape=(rows, *self.shape[1:]))] * count


def stored_tensors(files: ModelFiles, folder: str) -> dict[str, Stored]:
    """The tensors of a transformers model, from the files that transformers takes; no values are kept.

    Raises:
        InputError: there are none, a file cannot be read, or an index names a file that is not beside it.
    """
    for name, index in _INDEXES.items():
        if files.find(inside(folder, name)) is not None:
            return _described(files, inside(folder, name))
        if (content := files.json(inside(folder, index))) is not None:
            shards = _shards(files, inside(folder, index), content.get("weight_map"))
            return {key: one for shard in shards for key, one in _described(files, inside(folder, shard)).items()}
    raise InputError(
        f"{files.source} has no weights ({inside(folder, WEIGHTS_FILE)} or {PICKLE_FILE}, whole or in shards); "
        f"copy the whole model again."
    )


def module_tensors(files: ModelFiles, folder: str) -> dict[str, torch.Tensor]:
    """The tensors of a sentence-transformers module, from model.safetensors or else pytorch_model.bin, by their names.

    Raises:
        InputError: neither file is there, it cannot be read, or a tensor has no floats.
    """
    path = files.find(inside(folder, WEIGHTS_FILE))
    if path is not None:
        with _refusing(path):
            state = load_file(path)
    elif (path := files.find(inside(folder, PICKLE_FILE))) is not None:
        state = _unpickled(path, "cpu")
    else:
        raise InputError(f"{files.source}: {inside(folder, WEIGHTS_FILE)} is missing; copy the model again.")
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            raise InputError(f"{path}: {name} holds {_dtype(tensor)}, not floats; copy the model again.")
    return state


def _shards(files: ModelFiles, index: str, names: object) -> list[str]:
    if not isinstance(names, dict) or not names:
        raise InputError(
            f"{files.source}/{index}: weight_map is {shown(names)}, not the file of each tensor; restore it."
        )
    shards = list(dict.fromkeys(map(str, names.values())))
    for shard in shards:
        if shard in (".", "..") or re.search(r"[/\\\0]", shard):
            raise InputError(f"{files.source}/{index} names {shown(shard)}; a shard must lie beside it.")
        if files.find(inside(index.rpartition("/")[0], shard)) is None:
            raise InputError(f"{files.source}/{index} names {shown(shard)}, which is not there; copy the model again.")
    return shards


def _described(files: ModelFiles, name: str) -> dict[str, Stored]:
    path = files.find(name)
    assert path is not None
    if not name.endswith(".safetensors"):
        state = _unpickled(path, "meta")
        return {key: Stored(name, tuple(tensor.shape), _dtype(tensor)) for key, tensor in state.items()}
    with _refusing(path), safe_open(path, "pt") as content:
        slices = {key: content.get_slice(key) for key in content.keys()}  # noqa: SIM118, it is no mapping
        return {key: Stored(name, tuple(one.get_shape()), _named(one.get_dtype())) for key, one in slices.items()}


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turns what safetensors raises into an `InputError` that names the file."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read ({reason}); copy the model again.") from None


def _unpickled(path: Path, device: str) -> dict[str, torch.Tensor]:
    """The tensors that `torch.save` wrote; code in the file is not run.

    Every number must be in the file: neither compressed, which transformers maps into memory as it is, nor repeated by
    strides.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise InputError(f"{path} is compressed, which torch does not read; save it again with torch.save.")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # unpickling what somebody made up raises errors of any class
        raise InputError(
            f"{path} cannot be read as tensors alone ({type(error).__name__}): it is damaged, or holds objects with "
            f"code, which sparsecse does not run; take the model as {WEIGHTS_FILE}."
        ) from None
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise InputError(f"{path} holds something else than tensors by their names; copy the model again.")
    for name, tensor in content.items():
        if tensor.layout != torch.strided or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise InputError(f"{path}: {name} names more numbers than the file holds; copy the model again.")
    return dict(content)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _named(code: str) -> str:
    """torch's name of a type that safetensors calls I64 or BF16."""
    letters = code.rstrip("0123456789")
    return _KINDS.get(letters, letters.lower()) + code[len(letters) :]
