"""What every command does first: take the run directory, set the threads, gather the options of models and data."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

from sparsecse.cli.output import note
from sparsecse.distributed import workers
from sparsecse.errors import InputError
from sparsecse.processors import cgroup_quota, check_threads, default_threads
from sparsecse.settings import split_list
from sparsecse.sources import DataOptions, DevOptions, ModelOptions
from sparsecse.workdir import Workdir

DEBUG = "SPARSECSE_DEBUG"
DEFAULT_WORKDIR = Path("sparsecse-run")

COMMAND: ContextVar[str] = ContextVar("command", default="")
"""The command line that runs, for the records of what it makes."""


def command_line(program: str, arguments: Sequence[str]) -> str:
    """A command as a shell takes it, with our own environment variables before it."""
    own = {name: value for name, value in sorted(os.environ.items()) if name.startswith("SPARSECSE_")}
    given = [f"{name}={shlex.quote(value)}" for name, value in own.items() if name != DEBUG]
    return " ".join([*given, program, *map(shlex.quote, arguments)])


def set_threads(threads: int | None) -> None:
    """Give torch that many CPU threads; None leaves its own choice, but no more than this process has time for."""
    threads = check_threads(threads)
    if threads is not None or cgroup_quota() is not None:
        import torch

        torch.set_num_threads(threads or default_threads(torch.get_num_threads()))


@contextlib.contextmanager
def session(workdir: Path, threads: int | None = None, nproc: int = 1) -> Iterator[Workdir]:
    """The run directory, held by this process alone.

    nproc: processes that compute together, of which this one alone reads and writes.
    """
    run = Workdir(workdir, COMMAND.get())
    with run.lock(), workers(nproc):  # which import what they need in the meantime
        set_threads(threads)
        yield run


def named_model(run: Workdir, name: str, loading: ModelOptions) -> ModelOptions:
    """The model that was named, or the dense one that `train` left in the run directory."""
    from sparsecse.stages import resolve_model

    if name:
        # A record names `demo` and hub ids as they were given.
        return replace(loading, name=resolve_model(name) if Path(name).is_dir() else name)
    if run.record("train") is None:
        raise InputError("Missing argument MODEL: give a folder, a hub id or `demo`, or run `sparsecse train` first.")
    return replace(loading, name=resolve_model(str(run.folder("train") / "model")))


def named_data(name: str | None, reading: DataOptions) -> DataOptions | None:
    """Another data set that is looked for in the same folder; None without a name."""
    return DataOptions(name, data_dir=reading.data_dir) if name else None


def named_dev(names: list[str] | None, reading: DataOptions) -> DevOptions | None:
    """Dev sets whose names are looked for in the same folder; None without names."""
    return DevOptions(split_list(",".join(names)), reading.data_dir) if names else None


def note_prompts(model: ModelOptions, besides: str = "") -> None:
    """Say which prompts a model has where none is used: its vectors are then not what its card promises.

    besides: what uses them all the same.
    """
    if names := model.unused_prompts():
        outside = f" outside {besides}" if besides else ""
        note(f"prompts: {', '.join(names)}; none used{outside} (--prompt gives the text of one)")
