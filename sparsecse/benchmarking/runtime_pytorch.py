"""Runtime "pytorch": the encoder on PyTorch's own operators, with padding; its float32 is the measure of fidelity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sparsecse.benchmarking.runtimes import Runtime, Setup
from sparsecse.encoders import Encoder, load_encoder


class _PyTorch:
    def __init__(self, encoder: Encoder):
        self._encoder = encoder

    @torch.inference_mode()
    def encode_ids(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
        return self._encoder(*self._encoder.collate(token_ids)).float().numpy()


def reference(encoder: Encoder, token_ids: Sequence[Sequence[int]], batch_size: int = 32) -> np.ndarray:
    """The sentence vectors that all others are compared with, float32 [sentences, dimension], in the order given.

    encoder: in float32, in evaluation mode, on the CPU.
    """
    runtime = _PyTorch(encoder)
    vectors = np.empty((len(token_ids), encoder.dimension), dtype=np.float32)
    by_length = np.argsort([len(ids) for ids in token_ids])
    for start in range(0, len(token_ids), batch_size):
        rows = by_length[start : start + batch_size]
        vectors[rows] = runtime.encode_ids([token_ids[row] for row in rows])
    return vectors


def load(setup: Setup) -> Runtime:
    """Load with `load_encoder`, on the CPU.

    bfloat16 means that the weights are cast once, after loading; autocast would cast them again for every batch.
    """
    torch.set_num_threads(setup.threads)
    encoder = load_encoder(setup.source, **setup.load_options)
    return _PyTorch(encoder.to(getattr(torch, setup.precision)))
