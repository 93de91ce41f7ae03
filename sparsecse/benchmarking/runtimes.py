"""What a runtime must do to be measured, and where the loader of each one is."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

PRECISIONS = ("float32", "bfloat16")


class Runtime(Protocol):
    """A loaded model that embeds sentences which are tokenised already."""

    def encode_ids(self, token_ids: Sequence[Sequence[int]]) -> Any:
        """Embed exactly one batch and return its sentence vectors [batch, hidden_size], ready to be read.

        token_ids: the ids of every sentence, special tokens included, of different lengths; padding is the runtime's.
        """


@dataclass(frozen=True)
class Setup:
    """What a loader gets.

    source: a folder or a hub id.
    precision: one of `PRECISIONS`; a loader refuses with `InputError` what its runtime does not have.
    threads: processor threads that the runtime has to use.
    load_options: options of `load_encoder`, for runtimes that start from our encoder.
    """

    source: str
    precision: str
    threads: int
    load_options: Mapping[str, Any]


# Named, not imported: a worker imports its own runtime alone, so that its memory holds nothing of the others. The key
# is the name of the runtime's distribution on PyPI, by which its version is found.
RUNTIMES: dict[str, str] = {
    "sparsecse": "sparsecse.benchmarking.pytorch:load_sparsecse",
    "sentence-transformers": "sparsecse.benchmarking.pytorch:load_sentence_transformers",
}
"""Name -> "module:function", where the function takes a `Setup` and returns a `Runtime`."""


def load_runtime(loader: str, setup: Setup) -> Runtime:
    """Import a loader, given as "module:function", and load the model with it."""
    module, _, function = loader.partition(":")
    return getattr(importlib.import_module(module), function)(setup)
