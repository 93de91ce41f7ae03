"""Small calls in fixed shapes, so that a recorded run of the model, a CUDA graph, can serve them.

A bucket has memory for a number of tokens and of sentences. What a call leaves unused becomes one more sentence of
zeros, the last one, and sentences of no tokens before it: no sentence sees another, so that they change no vector.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import numpy as np
import torch

from sparsecse.encoders import PackedBatch

TOKENS = (16, 32, 64, 128, 256)
SENTENCES = (1, 8, 32)

Forward = Callable[[PackedBatch], torch.Tensor]
# Takes a call of no arguments whose tensors stay where they are, and gives one that does the same again.
Record = Callable[[Callable[[], torch.Tensor]], Callable[[], torch.Tensor]]


def bucket_size(tokens: int, sentences: int, longest: int) -> tuple[int, int] | None:
    """The smallest bucket, (tokens, sentences), that these fit into; None where there is none.

    longest: tokens that a sentence may have; the one of zeros is never longer than its bucket.
    """
    # One token more than there are: each unused sentence begins at one.
    t, s = bisect_left(TOKENS, tokens + 1), bisect_left(SENTENCES, sentences)
    if t == len(TOKENS) or s == len(SENTENCES) or TOKENS[t] > longest:
        return None
    return TOKENS[t], SENTENCES[s]


class Staging:
    """Memory for a packed batch on the host and on a device, filled by a single copy.

    Attributes:
        batch: the packed batch on the device; its tensors stay the same.
    """

    def __init__(self, tokens: int, sentences: int, device: torch.device):
        sizes = [tokens, tokens, sentences + 1]
        self._host = torch.zeros(sum(sizes), dtype=torch.int64, pin_memory=device.type == "cuda")
        self._parts = np.split(self._host.numpy(), np.cumsum(sizes)[:-1])
        self._device = torch.empty_like(self._host, device=device, pin_memory=False)
        self.batch = PackedBatch(*self._device.split(sizes))

    def fill(self, input_ids: np.ndarray, position_ids: np.ndarray, lengths: np.ndarray) -> PackedBatch:
        """Copy a batch, at most as large as this one; the copy before must have ended.

        Unused sentences are empty, but for the last one, which has all unused tokens, of id and position 0.
        """
        ids, positions, cu_lengths = self._parts
        for part, values in ((ids, input_ids), (positions, position_ids)):
            part[: len(values)] = values
            part[len(values) :] = 0
        ends = np.cumsum(lengths)
        cu_lengths[1 : len(ends) + 1] = ends
        cu_lengths[len(ends) + 1 :] = len(input_ids)
        cu_lengths[-1] = len(ids)
        self._device.copy_(self._host, non_blocking=True)
        return self.batch


class Bucket:
    """A model's run over memory that stays in place, recorded when it is first called."""

    def __init__(self, size: tuple[int, int], device: torch.device, forward: Forward, record: Record):
        tokens, sentences = size
        self._staging = Staging(tokens, sentences + 1, device)
        self._forward, self._record = forward, record
        self._replay: Callable[[], torch.Tensor] | None = None

    def __call__(self, input_ids: np.ndarray, position_ids: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
        """Sentence vectors [sentences, dimension], valid until the next call."""
        batch = self._staging.fill(input_ids, position_ids, lengths)
        if self._replay is None:
            self._replay = self._record(lambda: self._forward(batch))
        return self._replay()[: len(lengths)]
