"""What the command line prints: tables or JSON on standard output, progress and notes on standard error."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from sparsecse.guard import figures_text
from sparsecse.progress import Progress, duration

if TYPE_CHECKING:
    from sparsecse.training import StepReport

_PLAIN_LINE_EVERY = 10.0  # seconds

_WIDE = 160  # columns of a table that is not read on a terminal

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def show(as_json: bool, data: Mapping[str, Any], *tables: RenderableType) -> None:
    """Print the data as JSON, or the tables."""
    if as_json:
        sys.stdout.write(json.dumps(data, indent=2) + "\n")
        return
    for table in tables:
        out.print(table)


def note(text: str) -> None:
    """One line for the reader, on standard error."""
    err.print(text, markup=False)


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
