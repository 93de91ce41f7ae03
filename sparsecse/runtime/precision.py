"""Which precision to compute in: what the machine has, and what is fastest at no visible loss."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsecse.datasets import load_sentences
from sparsecse.encoders import Encoder, SparseCSEConfig, embedding
from sparsecse.errors import InputError, meant
from sparsecse.runtime import native
from sparsecse.runtime.calibration import LayerScales, calibrate

PRECISIONS = ("float32", "bfloat16", "int8")

# "auto" takes no precision whose vectors have a mean cosine below this to those of float32.
AUTO_COSINE = 0.998
# A less precise candidate must be this much faster than a more precise one: below that the clock decides nothing.
_WORTH = 1.1
_SENTENCES = 64
_REPEATS = 5


@dataclass(frozen=True)
class Choice:
    """A precision with the encoder built in it, and in a sentence why it was taken.

    scales: what it was built with, for int8.
    """

    precision: str
    encoder: Any
    scales: list[LayerScales] | None
    reason: str


def available(config: SparseCSEConfig | None = None) -> tuple[str, ...]:
    """The precisions that this machine computes in natively, most precise first; of a model those that it has too."""
    return tuple(precision for precision in PRECISIONS if native.computes_in(precision, config))


def choose(encoder: Encoder, precision: str, threads: int, scales: list[LayerScales] | None = None) -> Choice:
    """Build the native encoder in `precision`, or for "auto" in the fastest one that keeps `AUTO_COSINE`.

    scales: for int8, where they are known already; by default of `calibrate`.

    Raises:
        InputError: a precision that does not exist, or that this machine or this model does not have.
    """
    config = encoder.model.config
    if precision != "auto":
        if precision not in PRECISIONS:
            known = ("auto", *PRECISIONS)
            raise InputError(f"`precision` '{precision}' is not one of {', '.join(known)}.{meant(precision, known)}")
        if precision not in available():
            raise InputError(
                f"`precision` {precision} is not computed natively by this processor, only emulated, which would be "
                f"slower than float32; choose one of auto, {', '.join(available(config))}."
            )
        if precision not in available(config):
            raise InputError(
                f"`precision` {precision} has no native version for {config.original_model_type} layers; choose one of "
                f"auto, {', '.join(available(config))}."
            )
        return Choice(precision, *_build(encoder, precision, scales), f"{precision}, as asked for")
    token_ids = encoder.tokenize(load_sentences("demo")[:_SENTENCES])
    ids, lengths = embedding.read_token_ids(token_ids)
    exact = best = None
    measured = []
    for candidate in available(config):
        built, scales = _build(encoder, candidate, None)
        vectors, seconds = _run(built, ids, lengths, config.hidden_size, threads)
        exact = vectors if exact is None else exact
        cosine = _mean_cosine(vectors, exact)
        measured.append(f"{candidate} {len(token_ids) / seconds:,.0f} sentences/s at cosine {cosine:.4f}")
        if best is None or (cosine >= AUTO_COSINE and seconds * _WORTH < best[2]):
            best = candidate, built, seconds, scales
    assert best is not None
    reason = f"{best[0]}, the fastest above a cosine of {AUTO_COSINE} of " + ", ".join(measured)
    return Choice(best[0], best[1], best[3], reason)


def _build(encoder: Encoder, precision: str, scales: list[LayerScales] | None) -> tuple[Any, list[LayerScales] | None]:
    if precision == "int8" and scales is None:
        scales = calibrate(encoder)
    return native.build(encoder.model, precision, scales), scales


def _run(built: Any, ids: np.ndarray, lengths: np.ndarray, size: int, threads: int) -> tuple[np.ndarray, float]:
    vectors = np.empty((len(lengths), size), np.float32)
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        built.encode(ids, lengths, "mean", False, vectors, threads)
        seconds.append(time.perf_counter() - start)
    return vectors, min(seconds)


def _mean_cosine(x: np.ndarray, y: np.ndarray) -> float:
    products = (x * y).sum(axis=1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
    return float(products.mean())
