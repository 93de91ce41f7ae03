"""Speed, latency and memory of models and runtimes on the same sentences, measured in turn."""

from sparsecse.benchmarking.benchmark import benchmark
from sparsecse.benchmarking.machine import machine, peak_rss_mb, versions
from sparsecse.benchmarking.report import BenchModel, BenchReport, BenchRow
from sparsecse.benchmarking.runtimes import PRECISIONS, RUNTIMES, Runtime, RuntimeSpec, Setup, Skipped
from sparsecse.benchmarking.worker import ORDERS

__all__ = [
    "ORDERS",
    "PRECISIONS",
    "RUNTIMES",
    "BenchModel",
    "BenchReport",
    "BenchRow",
    "Runtime",
    "RuntimeSpec",
    "Setup",
    "Skipped",
    "benchmark",
    "machine",
    "peak_rss_mb",
    "versions",
]
