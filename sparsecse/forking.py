"""Where to compute when threads do not survive a fork, and processes that are spawned.

GCC's OpenMP (libgomp), which the compiled kernels and PyTorch share, keeps a team of threads for each thread that has
computed with several. A fork copies the thread that calls it and none of its team, so that this one thread would wait
in the child for ever. It is the child's main thread. Threads that the child starts get teams of their own.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

# Compared at each call instead of `os.register_at_fork`, which servers written in C need not honour.
_IMPORTED_IN = os.getpid()


def is_survivor() -> bool:
    """Whether this is the thread of a forked process that lived through the fork."""
    process = os.getpid()
    return process != _IMPORTED_IN and threading.get_native_id() == process


@functools.cache
def _helper(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "sparsecse")


def past_fork(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a function run on a thread begun after the fork where the one that calls it is a survivor.

    It must not rely on the caller's thread-local state, such as whether gradients are recorded.
    """

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not is_survivor():
            return function(*args, **kwargs)
        return _helper(os.getpid()).submit(function, *args, **kwargs).result()

    return call


@functools.cache
def _one_by_one(process: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def before_tokenizing() -> None:
    """Let the tokenizers library take texts one by one in a forked process.

    Its threads do not survive a fork either, and where the variable says "true" it waits for them for ever.
    """
    if (process := os.getpid()) != _IMPORTED_IN:
        _one_by_one(process)


def apart(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Call a function on a thread of its own, whose team ends with it, so that no team is left for a fork to break."""
    with ThreadPoolExecutor(1, "sparsecse") as pool:
        return pool.submit(function, *args, **kwargs).result()


def follow_parent() -> None:
    """Let this spawned process leave Ctrl-C to its parent, and end when that ends, killed or not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the parent too, which ends this process
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_with, args=(parent.join,), daemon=True).start()


def _end_with(wait: Callable[[], None]) -> None:
    wait()
    os._exit(1)


@contextlib.contextmanager
def unnamed_script() -> Iterator[None]:
    """Hide the caller's script from multiprocessing, which would import it, and all that it imports, in the child."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


@functools.cache
def _hold_torch(process: int) -> int:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    return before


def hold_torch() -> int:
    """Let PyTorch compute with one thread in this forked process, on whichever thread; returns how many it had."""
    return _hold_torch(os.getpid())
