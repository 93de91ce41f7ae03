"""The vectors to distil from, embedded once before the first step instead of in every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from sparsecse import distributed
from sparsecse.encoders import Encoder
from sparsecse.encoders.tokens import TokenIds
from sparsecse.errors import InputError
from sparsecse.runtime import Runtime, native
from sparsecse.training.precision import autocast, computes_bfloat16
from sparsecse.training.settings import TrainingSettings

# Embedded between two reports of progress; large enough that no product of matrices is small.
_BLOCK_TOKENS = 16_384


class Teacher:
    """One model to distil from, or several whose unit vectors are averaged.

    Args:
        encoders: the models; all have vectors of the student's size. They are taken one after the other, so that a
            sequence that makes a model when it is asked for one (`ensemble.Cuts`) never has two of them in memory. A
            process that follows has none: the leader hands each out.
        student: the model in training.
        settings: their `max_length` and `precision` are also the teachers'.
    """

    def __init__(self, encoders: Sequence[Encoder], student: Encoder, settings: TrainingSettings):
        self._encoders = encoders
        self._size = student.dimension
        self._settings = settings
        self._row: dict[str, int] = {}
        self._vectors = torch.empty(0, self._size)

    def embed(self, sentences: Sequence[str], progress: Callable[[int, int], None] | None = None) -> float:
        """Embed the distinct sentences, cut as the student's are; takes the place of what was embedded before.

        In memory are one model, the ids of the sentences, and a vector for each.

        progress: called with (passes done, passes in all), a pass being one sentence through one model.

        Returns:
            seconds that the passes took, without those that made the models ready for them.

        Raises:
            InputError: a model with vectors of another size.
        """
        texts = list(dict.fromkeys(sentences))
        vectors = torch.zeros(len(texts), self._size)
        tokens: _Tokens | None = None
        seconds = 0.0
        count = distributed.broadcast(len(self._encoders))
        for number in range(count):

            def report(done: int, before: int = number * len(texts)) -> None:
                if progress is not None:
                    progress(before + done, count * len(texts))

            # Nothing here holds a model when the next one is made.
            tokens, spent = self._add(self._handed(number), texts, tokens, vectors, report)
            seconds += spent
        distributed.add_up([vectors])
        self._row = {text: row for row, text in enumerate(texts)}
        self._vectors = F.normalize(vectors, dim=-1, out=vectors)
        return seconds

    def _handed(self, number: int) -> Encoder:
        """A teacher, in every process."""
        encoder = distributed.broadcast(self._encoders[number] if self._encoders else None)
        assert encoder is not None  # the leader has them
        return encoder.to(distributed.device(encoder.device))

    def _add(
        self,
        encoder: Encoder,
        texts: Sequence[str],
        tokens: _Tokens | None,
        vectors: torch.Tensor,
        report: Callable[[int], None],
    ) -> tuple[_Tokens, float]:
        """Add this process's share of a model's unit vectors to `vectors`.

        Returns:
            its token ids, those given where they will do, and the seconds.
        """
        size = encoder.dimension
        if size != self._size:
            raise InputError(
                f"`teacher` {encoder.source} has vectors of {size} numbers and the model in training has {self._size}; "
                f"give a teacher of that size."
            )
        if tokens is None or not tokens.are_those_of(encoder):
            tokens = _Tokens(encoder, texts, self._settings.max_length)
        embed = _embedder(encoder, self._settings)
        start, done = time.perf_counter(), 0
        for rows, token_ids in tokens.blocks():
            vectors[rows] += F.normalize(embed(token_ids), dim=-1)
            done += len(rows)
            report(min(distributed.size() * done, len(texts)))
        return tokens, time.perf_counter() - start

    def __call__(self, sentences: Sequence[str]) -> torch.Tensor:
        """Unit vectors [sentences, dimension], float32 on the CPU, of sentences that were embedded."""
        return self._vectors[[self._row[sentence] for sentence in sentences]]


class _Tokens:
    """Token ids of many sentences, handed out in blocks that all have the same mixture of lengths.

    Progress through such blocks tells the time that is left.
    """

    def __init__(self, encoder: Encoder, texts: Sequence[str], max_length: int):
        self._tokenizer, self._settings = encoder.tokenizer, encoder.settings
        self._ids = TokenIds.of(encoder, texts, max_length)

    def are_those_of(self, encoder: Encoder) -> bool:
        return encoder.tokenizer is self._tokenizer and encoder.settings == self._settings

    def blocks(self) -> Iterator[tuple[torch.Tensor, list[list[int]]]]:
        """Rows of some sentences, longest first, and their ids: this process's share of the blocks."""
        order = np.argsort(-self._ids.lengths, kind="stable")
        count = -(-len(self._ids.flat) // _BLOCK_TOKENS)
        for first in distributed.own(range(min(count, len(order)))):
            rows = order[first::count]
            yield torch.from_numpy(rows), self._ids.lists(rows)


def _embedder(encoder: Encoder, settings: TrainingSettings) -> Callable[[list[list[int]]], torch.Tensor]:
    """From token ids to whole vectors, float32 on the CPU: natively where that has the precision of the training."""
    size = encoder.dimension
    if native.obstacle(encoder.model) is None:
        precision = "bfloat16" if computes_bfloat16(settings.precision, encoder.device) else "float32"
        if native.computes_in(precision, encoder.model.config):
            runtime = Runtime(encoder, precision)
            return lambda token_ids: torch.from_numpy(runtime.encode_ids(token_ids, truncate_dim=size))

    def through_torch(token_ids: list[list[int]]) -> torch.Tensor:
        with autocast(settings.precision, encoder.device):
            return encoder.encode_ids(token_ids, batch_size=settings.batch_size, truncate_dim=size).cpu()

    return through_torch
