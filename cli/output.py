"""What the command line prints: tables or JSON on standard output, progress and notes on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=err)


def progress(label: str) -> Callable[[int, int], None]:
    """A progress bar on a terminal, a plain line now and then elsewhere; call the result with (done, total)."""
    if err.is_terminal:
        bar = _bar()
        task = bar.add_task(label, total=None)

        def update(done: int, total: int) -> None:
            # At the first call: only one bar can be on the screen, and others may run before this one's work begins.
            bar.start()
            bar.update(task, completed=done, total=total)
            if done >= total:
                bar.stop()

        return update
    last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last >= _PLAIN_LINE_EVERY:
            last = time.monotonic()
            note(f"{label}: {done} of {total}")

    return line


def step_progress(label: str) -> Callable[[StepReport], None]:
    """Progress of a training run; a dev score is always told."""
    update = progress(label)

    def step(report: StepReport) -> None:
        if report.dev is not None:
            note(f"{label}: step {report.step}, loss {report.loss:.4f}, dev {report.dev:.2f} (best {report.best:.2f})")
        update(report.step, report.steps)

    return step
