"""What the command line prints: tables or JSON on standard output, progress and notes on standard error."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from sparsecse.errors import InputError
from sparsecse.guard import figures_text
from sparsecse.progress import Progress, duration

if TYPE_CHECKING:
    from sparsecse.training import StepReport

_PLAIN_LINE_EVERY = 10.0  # seconds

_WIDE = 160  # columns of a table that is not read on a terminal


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1


out = _Console(highlight=False, soft_wrap=True, width=None if sys.stdout is not None and sys.stdout.isatty() else _WIDE)
err = _Console(stderr=True, highlight=False, soft_wrap=True)


def open_closed_streams() -> None:
    """Give each standard stream that is closed the null device; the next file to be opened would take its place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115, it stays open


def discard_output() -> None:
    """Let what is still to be written go nowhere: the interpreter tries it once more at its end, and would complain."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError):  # a stream that is no file of the system's
                os.dup2(null, stream.fileno())
    os.close(null)


@contextlib.contextmanager
def writing_output() -> Iterator[None]:
    """Write to standard output, all of it.

    Raises:
        InputError: it cannot be written. (A reader that is gone is a `BrokenPipeError`.)
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"Standard output cannot be written ({error.strerror}); send it elsewhere.") from None


def show(as_json: bool, data: Mapping[str, Any], *tables: RenderableType) -> None:
    """Print the data as JSON, or the tables."""
    with writing_output():
        if as_json:
            sys.stdout.write(json.dumps(data, indent=2) + "\n")
            return
        for table in tables:
            out.print(table)


def note(text: str) -> None:
    """One line for the reader, on standard error."""
    err.print(text, markup=False)


def note_plots() -> None:
    """Say so where no plot can be drawn."""
    from sparsecse.reporting.plots import can_draw

    if not can_draw():
        note('No plot will be drawn: matplotlib is not installed; `pip install "sparsecse[plot]"` brings it.')


def _bar() -> Bar:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Bar(*columns, console=err, get_time=time.monotonic)


def progress(label: str, since: float | None = None) -> Callable[[int, int], None]:
    """A progress bar on a terminal, a plain line now and then elsewhere; call the result with (done, total).

    since: the `time.monotonic()` that the bar's elapsed time counts from; by default now.
    """
    since = time.monotonic() if since is None else since
    if err.is_terminal:
        bar = _bar()
        task = bar.add_task(label, total=None)
        bar.tasks[0].start_time = since

        def update(done: int, total: int) -> None:
            # At the first call: only one bar can be on the screen, and others may run before this one's work begins.
            bar.start()
            bar.update(task, completed=done, total=total)
            if done >= total:
                bar.stop()

        return update
    last = time.monotonic()
    first: tuple[float, int] | None = None

    def line(done: int, total: int) -> None:
        nonlocal last, first
        now = time.monotonic()
        # From the first report on: before it models are loaded, and an interrupted run begins in the middle.
        began, before = first = first or (now, done)
        if done >= total:
            note(f"{label}: {done} of {total}")
        elif now - last >= _PLAIN_LINE_EVERY:
            last = now
            left = (now - began) / (done - before) * (total - done) if done > before else None
            note(f"{label}: {done} of {total}" + (f", about {duration(left)} left" if left else ""))

    return line


def step_progress(label: str, open_bar: Progress | None = None) -> Callable[[StepReport], None]:
    """Progress of a training run; dev figures are always told.

    open_bar: opens the bar at the first step; by default one that counts from now.
    """
    open_bar = open_bar or functools.partial(progress, since=time.monotonic())
    update: Callable[[int, int], None] | None = None

    def step(report: StepReport) -> None:
        nonlocal update
        update = update or open_bar(label)
        if report.dev is not None:
            dev = figures_text(report.dev)
            note(f"{label}: step {report.step}, loss {report.loss:.4f}, dev {dev} (best: step {report.best_step})")
        update(report.step, report.steps)

    return step


class StageTimes:
    """Tells the stages of a run as they begin, and how long each took; bars count from the start of theirs."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._seconds: dict[str, float] = {}

    def begin(self, stage: str, number: int, total: int) -> None:
        self.end()
        note(f"Stage {number} of {total}: {stage}")
        self._began[stage] = time.monotonic()

    def end(self) -> dict[str, float]:
        """The seconds of every stage, the one that runs ending now."""
        now = time.monotonic()
        for stage in self._began.keys() - self._seconds.keys():
            self._seconds[stage] = now - self._began[stage]
        return self._seconds

    def progress(self, label: str) -> Callable[[int, int], None]:
        """`progress` since the start of the stage that runs."""
        return progress(label, since=max(self._began.values(), default=None))
