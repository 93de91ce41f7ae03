"""The vectors to distil from, embedded once before the first step instead of in every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.training.precision import autocast
from sparsecse.training.settings import TrainingSettings


class Teacher:
    """One model to distil from, or several whose unit vectors are averaged.

    Args:
        encoders: the models; all have the student's hidden size.
        student: the model in training.
        settings: their `max_length` and `precision` are also the teachers'.

    Raises:
        InputError: a model of another hidden size.
    """

    def __init__(self, encoders: Sequence[Encoder], student: Encoder, settings: TrainingSettings):
        size = student.model.config.hidden_size
        for encoder in encoders:
            if encoder.model.config.hidden_size != size:
                raise InputError(
                    f"`teacher` {encoder.source} has vectors of {encoder.model.config.hidden_size} numbers and the "
                    f"model in training has {size}; give a teacher of that size."
                )
        self._encoders = list(encoders)
        self._settings = settings
        self._row: dict[str, int] = {}
        self._vectors = torch.empty(0, size)

    def embed(self, sentences: Sequence[str], progress: Callable[[int, int], None] | None = None) -> None:
        """Embed the distinct sentences, cut as the student's are; takes the place of what was embedded before.

        progress: called with (passes done, passes in all), a pass being one sentence through one model.
        """
        texts = list(dict.fromkeys(sentences))
        total = torch.zeros(len(texts), self._vectors.shape[1])
        for number, encoder in enumerate(self._encoders):

            def report(done: int, _: int, before: int = number * len(texts)) -> None:
                if progress is not None:
                    progress(before + done, len(self._encoders) * len(texts))

            with autocast(self._settings.precision, encoder.device):
                ids = encoder.tokenize(texts, self._settings.max_length)
                vectors = encoder.encode_ids(ids, batch_size=self._settings.batch_size, progress=report)
            total += F.normalize(vectors.cpu(), dim=-1)
        self._row = {text: row for row, text in enumerate(texts)}
        self._vectors = F.normalize(total, dim=-1)

    def __call__(self, sentences: Sequence[str]) -> torch.Tensor:
        """Unit vectors [sentences, hidden_size], float32 on the CPU, of sentences that were embedded."""
        return self._vectors[[self._row[sentence] for sentence in sentences]]
