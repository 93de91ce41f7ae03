"""What the sections of gpu.py share: contenders in turn between CUDA events, memory, and the device's ceilings."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

DEVICE = "cuda"


@dataclass(frozen=True)
class Options:
    n: list[int]
    d: list[int]
    sentences: int
    repeats: int


@dataclass(frozen=True)
class Row:
    """One contender at one shape.

    product: the precision of its matrix products, whose ceiling it is held against.
    ratio: its time over ours at the same shape, from the same rounds.
    """

    section: str
    shape: str
    contender: str
    product: str
    milliseconds: float
    ratio: float
    tflops: float
    gigabytes_per_second: float
    extra: float


def seconds(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median time of each call, all of them in turn, after two rounds that compile and warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 2):
        for name, call in calls.items():
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            stop.record()
            torch.cuda.synchronize()
            if round_ >= 2:
                times[name].append(start.elapsed_time(stop) / 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_bytes(call: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """float32 products in tf32, those of PyTorch and of the kernels, or not."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if allowed else "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def within(allowed: bool, call: Callable[[], object]) -> object:
    with tf32(allowed):
        return call()


# How vectors are given and multiplied: name, dtype, whether tf32 is allowed.
PRECISIONS = [("bf16", torch.bfloat16, False), ("tf32", torch.float32, True), ("ieee", torch.float32, False)]


def ceilings(repeats: int) -> dict[str, float]:
    """TFLOP/s of a large product in each precision, and GB/s of a copy."""
    size = 8192
    calls: dict[str, Callable[[], object]] = {}
    for name, dtype, allowed in PRECISIONS:
        a, b = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))
        calls[name] = partial(within, allowed, partial(torch.mm, a, b))
    source = torch.empty(2**30, dtype=torch.int8, device=DEVICE)
    target = torch.empty_like(source)
    calls["copy"] = partial(target.copy_, source)
    times = seconds(calls, repeats)
    return {name: 2 * (2**30 if name == "copy" else size**3 * 1e-3) / time / 1e9 for name, time in times.items()}


def timed(
    section: str,
    shape: str,
    product: str,
    calls: dict[str, Callable[[], object]],
    flops: float,
    traffic: float,
    elements: int,
    repeats: int,
) -> Iterator[Row]:
    """Time calls in turn, the first being ours.

    product: the precision of their products; flops, traffic: what the result needs at least, in bytes; elements: N d.
    """
    (allowed,) = {allowed for name, _, allowed in PRECISIONS if name == product}
    with tf32(allowed):
        times = seconds(calls, repeats)
        ours = next(iter(times.values()))
        for name, call in calls.items():
            extra = peak_bytes(call) / (4.0 * elements)
            time = times[name]
            rates = flops / time / 1e12, traffic / time / 1e9
            yield Row(section, shape, name, product, time * 1e3, time / ours, *rates, extra)
