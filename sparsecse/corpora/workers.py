"""Processes that compute side by side, each with a copy of the Runtime."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import numpy as np
import torch

from sparsecse.corpora.blocks import Submit, TokenIds
from sparsecse.errors import InputError
from sparsecse.forking import follow_parent, unnamed_script
from sparsecse.runtime import Runtime

# Of a worker process.
_runtime: Runtime | None = None


def _begin(pickled: bytes, threads: int) -> None:
    global _runtime
    follow_parent()
    torch.set_num_threads(threads)
    _runtime = pickle.loads(pickled)


def _encode(token_ids: TokenIds) -> np.ndarray:
    assert _runtime is not None
    return _runtime.encode_ids(token_ids)


@contextlib.contextmanager
def spawned(runtime: Runtime, processes: int, threads: int) -> Iterator[Submit]:
    """Processes that each compute with so many threads.

    The Runtime must have been made without a number of its own.

    Raises:
        InputError: from what it yields, where a process died.
    """
    context = multiprocessing.get_context("spawn")  # a fork would have none of OpenMP's threads
    pool = ProcessPoolExecutor(processes, context, _begin, (pickle.dumps(runtime), threads))

    def submit(token_ids: TokenIds) -> Callable[[], np.ndarray]:
        with _deaths(processes), unnamed_script():
            coming = pool.submit(_encode, token_ids)
        return partial(_wait, coming.result, processes)

    try:
        yield submit
    finally:
        pool.shutdown(cancel_futures=True)


def _wait(result: Callable[[], np.ndarray], processes: int) -> np.ndarray:
    with _deaths(processes):
        return result()


@contextlib.contextmanager
def _deaths(processes: int) -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise InputError(
            f"One of {processes} processes ended unasked; run the command again, which goes on where it stopped, and "
            f"with fewer `processes` if memory ran out."
        ) from None
