"""Runtime "sparsecse": our own, without padding; see `sparsecse.runtime`."""

from __future__ import annotations

from sparsecse.benchmarking.runtimes import Runtime, Setup
from sparsecse.encoders import load_encoder
from sparsecse.runtime import Runtime as SparsecseRuntime


def load(setup: Setup) -> Runtime:
    """Load with `sparsecse.runtime.Runtime`, which computes in exactly this precision or refuses."""
    model = load_encoder(setup.source, **setup.load_options)
    return SparsecseRuntime(model, precision=setup.precision, threads=setup.threads)
