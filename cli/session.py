"""What every command does first: take the run directory, set the threads, gather the options of models and data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sparsecse.cli.options import split_list
from sparsecse.cli.output import note
from sparsecse.errors import InputError
from sparsecse.workdir import Workdir

if TYPE_CHECKING:
    from sparsecse.stages import DataOptions, ModelOptions

DEFAULT_WORKDIR = Path("sparsecse-run")


def set_threads(threads: int | None) -> None:
    """Give torch that many CPU threads; None leaves its own choice."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


@contextlib.contextmanager
def session(workdir: Path, threads: int | None = None) -> Iterator[Workdir]:
    """The run directory, held by this process alone."""
    run = Workdir(workdir)
    with run.lock():
        set_threads(threads)
        yield run


def model_options(
    run: Workdir,
    name: str,
    pooling: str | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    prompt: str | None = None,
) -> ModelOptions:
    """The model that was named, or the dense one that `train` left in the run directory."""
    from sparsecse.stages import ModelOptions

    if not name:
        if run.record("train") is None:
            raise InputError(
                "Missing argument MODEL: give a folder, a hub id or `demo`, or run `sparsecse train` first."
            )
        name = str(run.folder("train") / "model")
    return ModelOptions(name, pooling, normalize, max_length, prompt)


def note_prompts(model: ModelOptions) -> None:
    """Say which prompts a model has where none is used: its vectors are then not what its card promises."""
    if names := model.unused_prompts():
        note(f"prompts: {', '.join(names)}; none used (--prompt gives the text of one)")


def data_options(name: str, split: str | None, data_dir: str | None, columns: str | None) -> DataOptions:
    """A data set as the options describe it."""
    from sparsecse.stages import DataOptions

    return DataOptions(name, split, data_dir, split_list(columns))
