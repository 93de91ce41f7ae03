"""What the command line prints: tables or JSON on standard output, progress and notes on standard error."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from sparsecse.errors import InputError
from sparsecse.guard import figures_text
from sparsecse.progress import WORTH_SAYING, Progress, duration, silent

if TYPE_CHECKING:
    from sparsecse.training import StepReport

_PLAIN_LINE_EVERY = 10.0  # seconds
_TELLING = 2.0  # seconds of work that tell how long all of it takes

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


def show(as_json: bool, data: Mapping[str, Any], *tables: RenderableType, written: str | Path | None = None) -> None:
    """Print the data as JSON, or the tables; with --quiet, of a command that wrote something, where that is."""
    with writing_output():
        if as_json:
            sys.stdout.write(json.dumps(data, indent=2) + "\n")
        elif err.quiet and written is not None:
            sys.stdout.write(f"{written}\n")
        else:
            for table in tables:
                out.print(table)


def note(text: str) -> None:
    """One line for the reader, on standard error; not with --quiet."""
    err.print(text, markup=False)


def complain(text: str) -> None:
    """One line on standard error about what ends the command, with --quiet too."""
    err.quiet = False
    note(text)


@contextlib.contextmanager
def command_output() -> Iterator[None]:
    """The output of one command: its --quiet, its bars and its warnings, each a line, end with it."""
    global _display
    err.quiet, _display = False, _Display()
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: note(f"Warning: {message}")
        try:
            yield
        finally:
            _display.close()


def be_quiet() -> None:
    """What --quiet does: no notes, no progress and no warnings."""
    err.quiet = True


def note_plots() -> None:
    """Say so where no plot can be drawn."""
    from sparsecse.reporting.plots import can_draw

    if not can_draw():
        note('No plot will be drawn: matplotlib is not installed; `pip install "sparsecse[plot]"` brings it.')


def has_screen(console: Console) -> bool:
    """Whether bars can be drawn: on a terminal that moves its cursor, not where FORCE_COLOR asks for colours alone."""
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()


class _Display:
    """The progress of all that is being done: a bar for each on a terminal, plain lines now and then elsewhere."""

    def __init__(self) -> None:
        self._bars: Bar | None = None
        self._last_line = -math.inf

    def open(self, label: str, since: float) -> Callable[[int, int], None]:
        if err.quiet:
            return silent(label)
        return self._bar(label, since) if has_screen(err) else self._lines(label)

    def close(self) -> None:
        """Give the screen back, whatever is unfinished."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _bar(self, label: str, since: float) -> Callable[[int, int], None]:
        task: TaskID | None = None

        def update(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                if self._bars is None:
                    self._bars = _bars()
                    self._bars.start()
                task = self._bars.add_task(label)
                self._bars.tasks[-1].start_time = since
            assert self._bars is not None
            self._bars.update(task, completed=done, total=total)
            if done < total:
                return
            if self._bars.finished:
                self.close()
            else:  # a part of what goes on
                self._bars.remove_task(task)
            task = None

        return update

    def _lines(self, label: str) -> Callable[[int, int], None]:
        opened = time.monotonic()
        first: tuple[float, int] | None = None

        def line(done: int, total: int) -> None:
            nonlocal first
            now = time.monotonic()
            # From the first report on: before it models are loaded, and an interrupted run begins in the middle.
            began, before = first = first or (now, done)
            if done >= total:
                note(f"{label}: {done} of {total}")
                return
            left = (now - began) / (done - before) * (total - done) if done > before else None
            # Long work is told as soon as it is clear that it is long.
            long = left is not None and now - began >= _TELLING and now - began + left > WORTH_SAYING
            if now - self._last_line >= _PLAIN_LINE_EVERY and (long or now - opened >= _PLAIN_LINE_EVERY):
                self._last_line = now
                note(f"{label}: {done} of {total}" + (f", about {duration(left)} left" if left else ""))

        return line


_display = _Display()


def _bars() -> Bar:
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
    return _display.open(label, time.monotonic() if since is None else since)


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
