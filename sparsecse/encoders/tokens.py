"""Token ids of many sentences in one array: as lists of Python's numbers they take ten times the memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sparsecse.encoders.embedding import read_token_ids
from sparsecse.encoders.encoder import Encoder

_AT_ONCE = 4096  # sentences that are lists for a moment


@dataclass(frozen=True)
class TokenIds:
    """The token ids of sentences, one after another.

    flat: [total_tokens], int32. lengths: [sentences], int64.
    """

    flat: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, encoder: Encoder, texts: Sequence[str], max_length: int | None = None) -> TokenIds:
        """What an encoder makes of at least one text; see `Encoder.tokenize`."""
        parts = [
            read_token_ids(encoder.tokenize(texts[start : start + _AT_ONCE], max_length))
            for start in range(0, len(texts), _AT_ONCE)
        ]
        return cls(np.concatenate([ids for ids, _ in parts]), np.concatenate([lengths for _, lengths in parts]))

    @cached_property
    def _ends(self) -> np.ndarray:
        return self.lengths.cumsum()

    def lists(self, rows: np.ndarray) -> list[list[int]]:
        """The ids of some sentences."""
        return [self.flat[self._ends[row] - self.lengths[row] : self._ends[row]].tolist() for row in rows]
