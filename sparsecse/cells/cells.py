"""A list of cells, each kept as soon as it is measured, so that what is killed goes on where it was."""

from __future__ import annotations

import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from sparsecse.errors import InputError

ATTEMPTS = 3
"""How often a cell is begun whose process dies."""


@dataclass(frozen=True)
class Cell:
    """One measurement.

    key: unique among its kind, and enough to say what was measured.
    run: measures it; it can be pickled where the engine is another than `here`.
    threads: what it computes with, which it sees to itself; a cluster finds it room by them.
    """

    key: str
    run: Callable[[], dict[str, Any]]
    threads: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: its value, or the error that ended it. seconds: how long it took."""

    key: str
    value: dict[str, Any] | None = None
    error: Exception | None = None
    seconds: float = 0.0


class CellError(InputError):
    """A cell ended by an error that is no bad input, or its process died. details: the traceback, or ""."""

    def __init__(self, message: str, details: str = ""):
        super().__init__(message)
        self.args = (*self.args, details)  # what its copy in another process is made of
        self.details = details

    def __str__(self) -> str:
        return self.args[0]


Engine = Callable[[Sequence[Cell]], Iterator[Outcome]]
"""Measures cells, which do not depend on one another, and yields what became of each as soon as it is known.

A cell whose process dies is tried again, `ATTEMPTS` times in all, and then has a `CellError`; the others go on.
"""


def attempt(cell: Cell) -> Outcome:
    """Measure a cell here; its error is part of the outcome."""
    start = time.monotonic()
    try:
        value = cell.run()
    except Exception as error:
        return Outcome(cell.key, error=error, seconds=time.monotonic() - start)
    return Outcome(cell.key, value, seconds=time.monotonic() - start)


def portable(outcome: Outcome) -> Outcome:
    """An outcome that can leave its process: errors that are no bad input become a `CellError`."""
    error = outcome.error
    if error is None or type(error) is InputError:
        return outcome
    lines = str(error).strip().splitlines() or ["no message"]
    details = "".join(traceback.format_exception(error))
    return replace(outcome, error=CellError(f"{type(error).__name__}: {lines[0]}", details))


def here(cells: Sequence[Cell]) -> Iterator[Outcome]:
    """The engine for cells that close over what is in memory: one after the other, in this process."""
    return map(attempt, cells)


@dataclass(frozen=True)
class Room:
    """What an engine has to compute with.

    cells: how many at once. threads: of all these together. most: of one cell; by default all.
    """

    cells: int = 1
    threads: int = 1
    most: int | None = None

    def share(self, cells: int) -> int:
        """The threads of each of so many cells: the same for all, at least 1."""
        share = max(1, self.threads // max(1, min(self.cells, cells)))
        return share if self.most is None else max(1, min(share, self.most))


class Attempts:
    """Cells that wait for a process, those that one died on among them."""

    def __init__(self, cells: Sequence[Cell]):
        self.waiting = deque(cells)
        self._begun: Counter[str] = Counter()

    def died(self, cell: Cell, how: str) -> Iterator[Outcome]:
        """Let the cell wait again, or yield its error. how: the process ended."""
        self._begun[cell.key] += 1
        if self._begun[cell.key] < ATTEMPTS:
            self.waiting.append(cell)
            return
        message = f"its process ended unasked {ATTEMPTS} times ({how}); it may take more memory than there is."
        yield Outcome(cell.key, error=CellError(message))


class Ledger(Protocol):
    """Where results are kept."""

    def __contains__(self, key: object) -> bool: ...

    def keep(self, key: str, result: dict[str, Any]) -> None:
        """Write a result, so that nothing loses it any more."""


def measure_cells(
    cells: Sequence[Cell],
    ledger: Ledger,
    engine: Engine = here,
    *,
    failed: Callable[[Outcome], None] | None = None,
    kept: Callable[[Outcome], None] = lambda outcome: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Measure the cells that the ledger does not have, each kept with its `seconds` before the next one is looked at.

    Args:
        failed: called with a cell that ended by an error, and the others go on; without it the error is raised.
        kept: called with a cell once it is kept.
        progress: called with (cells done, cells in all) before the first one and after each.
    """
    waiting = [cell for cell in cells if cell.key not in ledger]
    done = len(cells) - len(waiting)
    progress(done, len(cells))
    for outcome in engine(waiting):
        if outcome.value is not None:
            ledger.keep(outcome.key, {**outcome.value, "seconds": round(outcome.seconds, 1)})
            kept(outcome)
        elif failed is not None:
            failed(outcome)
        else:
            assert outcome.error is not None
            raise outcome.error
        done += 1
        progress(done, len(cells))


def check_identity(path: Path, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse results that were measured of something else; `wanted` is what the file `path` must say in these fields.

    Raises:
        InputError: another model, data, ...
    """
    for what, value in wanted.items():
        if before.get(what) != value:
            raise InputError(
                f"{path} was measured with another {what}; give the settings that it records, or another `out`."
            )
