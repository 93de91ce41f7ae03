"""Cells in processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from sparsecse.cells.cells import Attempts, Cell, Engine, Outcome, attempt, portable
from sparsecse.forking import follow_parent, unnamed_script

_Workers = dict[Connection, SpawnProcess]


def _work(connection: Connection) -> None:
    """Measure what comes through the pipe until it is closed."""
    follow_parent()
    os.dup2(2, 1)  # standard output is the caller's alone
    sys.stdout = sys.stderr
    with contextlib.suppress(EOFError):
        while True:
            cell = connection.recv()
            connection.send(portable(attempt(cell)))


@contextlib.contextmanager
def processes(count: int) -> Iterator[Engine]:
    """An engine of so many processes, which stay for all that it is called with, and end with the context."""
    workers: _Workers = {}
    try:
        yield lambda cells: _map(cells, count, workers)
    finally:
        for process in workers.values():
            process.kill()
        for process in workers.values():
            process.join()


def _map(cells: Sequence[Cell], count: int, workers: _Workers) -> Iterator[Outcome]:
    queue = Attempts(cells)
    busy: dict[Connection, Cell] = {}
    while queue.waiting or busy:
        while queue.waiting and len(busy) < count:
            connection = next((one for one in workers if one not in busy), None) or _begin(workers)
            try:
                connection.send(queue.waiting[0])
            except OSError:  # it died between two cells
                _end(workers, connection)
                continue
            busy[connection] = queue.waiting.popleft()
        for ready in wait(list(busy)):
            assert isinstance(ready, Connection)
            cell = busy.pop(ready)
            try:
                yield ready.recv()
            except (EOFError, OSError):
                yield from queue.died(cell, _end(workers, ready))


def _begin(workers: _Workers) -> Connection:
    context = multiprocessing.get_context("spawn")  # a fork would have none of OpenMP's threads
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=False)
    with unnamed_script():
        process.start()
    theirs.close()  # else its end would not be seen
    workers[ours] = process
    return ours


def _end(workers: _Workers, connection: Connection) -> str:
    """Forget a process that died; returns how."""
    process = workers.pop(connection)
    process.kill()
    process.join()
    connection.close()
    code = process.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
