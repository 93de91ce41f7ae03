"""A process that holds one model in one runtime and times it when asked."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from sparsecse.benchmarking.machine import peak_rss_mb
from sparsecse.benchmarking.runtimes import Runtime, Setup, function
from sparsecse.errors import InputError
from sparsecse.forking import unnamed_script

ORDERS = ("given", "sorted")

TokenIds = Sequence[Sequence[int]]


@dataclass(frozen=True)
class _Failure:
    """An exception of the worker, as text: the exception itself might not survive pickling."""

    message: str
    is_input_error: bool
    traceback: str


def order_rows(token_ids: TokenIds, order: str) -> list[int]:
    """The rows in one of `ORDERS`: "given", or "sorted", the longest first."""
    rows = range(len(token_ids))
    return list(rows) if order == "given" else sorted(rows, key=lambda row: -len(token_ids[row]))


def _time_batches(runtime: Runtime, batches: Sequence[TokenIds]) -> list[float]:
    seconds = []
    for batch in batches:
        begin = time.perf_counter()
        runtime.encode_ids(batch)
        seconds.append(time.perf_counter() - begin)
    return seconds


def _embed(runtime: Runtime, batches: Sequence[TokenIds], rows: Sequence[int]) -> np.ndarray:
    """The vectors in the order given; rows: the sentences in the order of the batches."""
    vectors = np.concatenate([runtime.encode_ids(batch) for batch in batches])
    in_order = np.empty_like(vectors)
    in_order[rows] = vectors
    return in_order


def _silence() -> None:
    """Send what libraries print, in Python or below it, to nowhere: the parent's output is not theirs."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _serve(connection: Connection) -> None:
    _silence()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # an orderly end, which gives back what libraries hold
    try:
        loader, setup, token_ids = connection.recv()
        runtime = function(loader)(setup)
        connection.send(None)
        while True:
            what, batch_size, order = connection.recv()
            rows = order_rows(token_ids, order)
            in_order = [token_ids[row] for row in rows]
            batches = [in_order[start : start + batch_size] for start in range(0, len(rows), batch_size)]
            if what == "vectors":
                connection.send(_embed(runtime, batches, rows))
            else:
                connection.send((_time_batches(runtime, batches), peak_rss_mb()))
    except Exception as error:
        is_input_error = isinstance(error, InputError)
        lines = str(error).splitlines()
        message = str(error) if is_input_error else ": ".join([type(error).__name__, *lines[:1]])
        with contextlib.suppress(OSError):  # where the error is that the parent has gone
            connection.send(_Failure(message, is_input_error, traceback.format_exc()))


class Worker:
    """The parent's side of one process; a context manager that ends the process whatever happens.

    The process starts at once. `load` only asks, so that several can load side by side; `wait_loaded` waits.
    Every method raises `InputError`, naming the model, the runtime and the reason, if the process raised or died.

    Attributes:
        runtime: the runtime's name.
        setup: what its loader gets.
        peak_rss_mb: the most memory, in MiB, that the process had held by the end of the last `time`.
    """

    def __init__(self, runtime: str, loader: str, setup: Setup):
        self.runtime, self.setup = runtime, setup
        self.peak_rss_mb: float | None = None
        self._loader = loader
        # Spawned, not forked: a fork would hold the parent's memory and its thread pools.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # A daemon is ended with the parent's interpreter even where `__exit__` had no chance.
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with unnamed_script():
            self._process.start()
        theirs.close()  # else the end of the process would not be the end of the pipe

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join(timeout=5)
        self._process.kill()
        self._process.join()
        self._connection.close()

    def load(self, token_ids: TokenIds) -> None:
        """Ask for the model to be loaded, and hand over the sentences to be timed."""
        self._send((self._loader, self.setup, token_ids))

    def wait_loaded(self) -> None:
        """Wait for what `load` asked for."""
        self._receive()

    def time(self, batch_size: int, order: str) -> list[float]:
        """Embed all sentences once, in one of `ORDERS`; the seconds that every batch of `batch_size` took, in turn."""
        self._send(("seconds", batch_size, order))
        seconds, self.peak_rss_mb = self._receive()
        return seconds

    def vectors(self, batch_size: int, order: str) -> np.ndarray:
        """Embed all sentences once in the same batches as `time` does.

        Returns:
            float32 [sentences, hidden_size], rows in the order in which the sentences were handed over.
        """
        self._send(("vectors", batch_size, order))
        return self._receive()

    def _send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError:
            raise self._death() from None

    def _receive(self) -> Any:
        try:
            reply = self._connection.recv()
        except (EOFError, OSError):
            raise self._death() from None
        if not isinstance(reply, _Failure):
            return reply
        cause = RuntimeError(f"in the worker process:\n{reply.traceback}")
        if reply.is_input_error:
            raise InputError(reply.message) from cause
        raise InputError(
            f"{self.setup.source} failed in the runtime {self.runtime} ({reply.message}); "
            f"leave out that runtime or that model."
        ) from cause

    def _death(self) -> InputError:
        self._process.join(timeout=10)
        code = self._process.exitcode
        where = f"{self.setup.source} in the runtime {self.runtime}"
        if code is not None and code < 0:
            reason = f"its process was killed by signal {-code} ({signal.strsignal(-code)})"
            return InputError(f"{where}: {reason}; if memory ran out, measure fewer models or smaller batches at once.")
        return InputError(
            f"{where}: its process ended unasked with exit code {code}; leave out that runtime or that model."
        )
