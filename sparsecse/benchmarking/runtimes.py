"""What a runtime must do to be measured, which there are, and which of them this machine has."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sparsecse.errors import InputError

PRECISIONS = ("float32", "bfloat16", "int8")


class Runtime(Protocol):
    """A loaded model that embeds sentences which are tokenised already."""

    def encode_ids(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Embed exactly one batch and return its sentence vectors, float32 [batch, hidden_size].

        They are pooled and normalised as the folder, or the user, says; what `truncate_dim` cuts off may be there.

        token_ids: the ids of every sentence, special tokens included, of different lengths; padding is the runtime's.
        """


@dataclass(frozen=True)
class Setup:
    """What a loader gets.

    source: a folder or a hub id.
    precision: one of `PRECISIONS` that the runtime has.
    threads: processor threads that the runtime has to use, exactly.
    load_options: options of `load_encoder`, for runtimes that start from our encoder.
    converted: what the runtime's `convert` returned.
    """

    source: str
    precision: str
    threads: int
    load_options: Mapping[str, Any]
    converted: Path | None = None


@dataclass(frozen=True)
class RuntimeSpec:
    """A runtime that can be measured. Functions are named, not imported, as "module:function": a worker imports its own
    runtime alone, so that its memory holds nothing of the others.

    loader: takes a `Setup` and returns a `Runtime`; runs in the worker.
    precisions: those of `PRECISIONS` that it has.
    packages: what has to be importable.
    extra: the extra of sparsecse that brings them.
    convert: None for a runtime that loads the model as it is; else a function (encoder, precision, sentences, folder)
        that writes the model in the runtime's own format into `folder`, which all its precisions of one model share,
        and returns the path to load. It runs in the caller's process, so that its memory is not counted. It raises
        `InputError` for a model that the runtime cannot hold.
    """

    loader: str
    precisions: tuple[str, ...]
    packages: tuple[str, ...] = ()
    extra: str | None = None
    convert: str | None = None

    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [package for package in self.packages if importlib.util.find_spec(package) is None]


_HERE = "sparsecse.benchmarking"

# The first one is the baseline of `all`.
RUNTIMES: dict[str, RuntimeSpec] = {
    "pytorch": RuntimeSpec(f"{_HERE}.runtime_pytorch:load", ("float32", "bfloat16")),
    "sentence-transformers": RuntimeSpec(
        f"{_HERE}.runtime_sentence_transformers:load",
        ("float32", "bfloat16"),
        ("sentence_transformers",),
        "st",
        f"{_HERE}.runtime_sentence_transformers:convert",
    ),
    "onnxruntime": RuntimeSpec(
        f"{_HERE}.runtime_onnxruntime:load",
        ("float32", "int8"),
        ("onnx", "onnxscript", "onnxruntime"),
        "onnx",
        f"{_HERE}.runtime_onnxruntime:convert",
    ),
    "openvino": RuntimeSpec(
        f"{_HERE}.runtime_openvino:load",
        PRECISIONS,
        ("openvino", "nncf"),
        "openvino",
        f"{_HERE}.runtime_openvino:convert",
    ),
    "ctranslate2": RuntimeSpec(
        f"{_HERE}.runtime_ctranslate2:load",
        ("float32", "int8"),
        ("ctranslate2",),
        "ctranslate2",
        f"{_HERE}.runtime_ctranslate2:convert",
    ),
    "sparsecse": RuntimeSpec(f"{_HERE}.runtime_sparsecse:load", PRECISIONS),
}
"""By name, in the order in which `all` measures them."""


@dataclass(frozen=True)
class Skipped:
    """What was not measured although it belongs to an `all`; None stands for every precision or every model.

    reason: a clause without a full stop.
    """

    runtime: str
    precision: str | None
    model: str | None
    reason: str


def combinations(
    runtimes: Sequence[str] | str, precisions: Sequence[str] | str
) -> tuple[list[tuple[str, str]], list[Skipped]]:
    """The pairs of runtime and precision to measure, and what of an `all` cannot be.

    Args:
        runtimes: keys of `RUNTIMES`, or "all".
        precisions: of `PRECISIONS`, or "all".

    Raises:
        InputError: a runtime given by name is not installed, or does not have a precision that is given by name too;
            or nothing is left.
    """
    found: list[tuple[str, str]] = []
    skipped: list[Skipped] = []
    for name in RUNTIMES if runtimes == "all" else runtimes:
        spec = RUNTIMES[name]
        if missing := spec.missing():
            reason = f"the package {missing[0]} is not installed; run pip install 'sparsecse[{spec.extra}]'"
            if runtimes != "all":
                raise InputError(f"`runtimes` {name}: {reason}, or leave it out.")
            skipped.append(Skipped(name, None, None, reason))
            continue
        for precision in PRECISIONS if precisions == "all" else precisions:
            if precision in spec.precisions:
                found.append((name, precision))
            elif "all" in (runtimes, precisions):
                skipped.append(Skipped(name, precision, None, "the runtime does not have this precision"))
            else:
                raise InputError(
                    f"`precisions` {precision}: the runtime {name} does not have it; choose one of "
                    f"{', '.join(spec.precisions)}, or leave that runtime out."
                )
    if not found:
        raise InputError(
            f"`precisions` {','.join(precisions)}: no runtime that is installed has it; choose one of "
            f"{', '.join(PRECISIONS)}."
        )
    return found, skipped


def function(name: str) -> Any:
    """Import a function given as "module:function"."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


class ExportedGraph:
    """A `Runtime` of what `sparsecse.exporting` wrote with pooling inside the graph.

    run: maps the graph's inputs by name, int64 [batch, longest] each, to its outputs.
    names: the inputs that the graph has.
    path: the graph's file; the folder above its own has the model's configuration.
    """

    def __init__(self, run: Callable[[dict[str, np.ndarray]], Any], names: Sequence[str], path: Path):
        self._run, self._names = run, names
        self._pad_token_id = json.loads((path.parents[1] / "config.json").read_text(encoding="utf-8"))["pad_token_id"]

    def encode_ids(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
        input_ids, mask = padded(token_ids, self._pad_token_id)
        values = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(input_ids)}
        return self._run({name: values[name] for name in self._names})[0]


def padded(token_ids: Sequence[Sequence[int]], pad_token_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids padded on the right, and their mask: int64 [batch, longest] each."""
    lengths = np.array([len(ids) for ids in token_ids])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad_token_id, dtype=np.int64)
    ids[mask] = [token for row in token_ids for token in row]
    return ids, mask.astype(np.int64)
