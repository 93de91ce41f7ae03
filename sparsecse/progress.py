"""How long work reports its progress, and how a time is said."""

from collections.abc import Callable
from typing import Any

WORTH_SAYING = 60.0
"""Seconds of work from which on it is said beforehand how long it will take."""

Progress = Callable[[str], Callable[[int, int], None]]
"""Opens a progress line with a label; what it returns is called with (done, total)."""


def silent(_: str) -> Callable[[int, int], None]:
    """No progress display."""
    return lambda done, total: None


def bars(label: str) -> Callable[[int, int], None]:
    """A bar of tqdm's on standard error, or a widget in a notebook."""
    from tqdm.auto import tqdm

    bar: Any = None

    def update(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or tqdm(desc=label, total=total, disable=False)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update


def duration(seconds: float) -> str:
    """A time as one says it: `40 seconds`, `12 minutes`, `2.5 hours`."""
    units = (("second", 1), ("minute", 60), ("hour", 3600))
    unit, size = next((one for one in units if seconds < 90 * one[1]), units[-1])
    count = f"{seconds / size:.1f}".removesuffix(".0") if unit == "hour" else str(max(1, round(seconds / size)))
    return f"{count} {unit}" if count == "1" else f"{count} {unit}s"
