"""Cells on Ray: the processors of this machine, or of a cluster."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

from sparsecse.cells.cells import Attempts, Cell, Engine, Outcome, attempt, portable
from sparsecse.errors import InputError

LOCAL = "local"
"""The address for which Ray is started on this machine."""


def _measure(cell: Cell) -> Outcome:
    return portable(attempt(cell))


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError('`engine` ray needs Ray; `pip install "sparsecse[ray]"` brings it.') from None
    return ray


@contextlib.contextmanager
def ray_cluster(address: str, threads: int | None = None) -> Iterator[tuple[Any, int, int]]:
    """Ray, with the processors that it has in all and those of its largest machine.

    Args:
        address: `LOCAL`, auto, HOST:PORT or ray://HOST:PORT.
        threads: the processors that a local Ray is given; by default all.

    Raises:
        InputError: Ray is not installed, or nothing answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent unasked
    ray = _ray()
    ends = signal.getsignal(signal.SIGTERM)  # Ray puts its own in its place
    started = {"num_cpus": threads, "include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **started)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"`ray_address` {address} cannot be used ({reason}); start Ray there, or leave it out."
        ) from None
    signal.signal(signal.SIGTERM, ends)
    try:
        sizes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        yield ray, sum(sizes), max(sizes, default=0)
    finally:
        ray.shutdown()


def on_ray(ray: Any, count: int) -> Engine:
    """An engine of at most so many cells at once, each on one machine of the cluster that has its threads free."""
    # Ray would also try for ever what ended because memory ran out; who is tried again is decided here.
    remote = ray.remote(max_retries=0)(_measure)

    def engine(cells: Sequence[Cell]) -> Iterator[Outcome]:
        queue = Attempts(cells)
        running: dict[Any, Cell] = {}
        try:
            while queue.waiting or running:
                while queue.waiting and len(running) < count:
                    cell = queue.waiting.popleft()
                    running[remote.options(num_cpus=cell.threads).remote(cell)] = cell
                for ready in ray.wait(list(running), num_returns=1)[0]:
                    cell = running.pop(ready)
                    try:
                        yield ray.get(ready)
                    except ray.exceptions.RayTaskError as error:  # a machine without what the cell is made of
                        yield portable(Outcome(cell.key, error=error))
                    except ray.exceptions.RayError as error:
                        yield from queue.died(cell, type(error).__name__)
        finally:
            for left in running:
                ray.cancel(left, force=True)

    return engine
