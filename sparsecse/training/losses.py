"""The loss of one batch: one pass over all its sentences, then the weighted objectives on the vectors."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import nn

from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.objectives import distillation, info_nce
from sparsecse.training.settings import TrainingSettings

Example = tuple[str, ...]
"""(sentence,), (anchor, positive) or (anchor, positive, hard negative)."""


class MLPHead(nn.Module):
    """SimCSE's linear + tanh over the sentence vector, used in training only."""

    def __init__(self, size: int):
        super().__init__()
        self.dense = nn.Linear(size, size)
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(vectors))


class BatchLoss(nn.Module):
    """Computes the settings' objective for a batch of examples.

    Args:
        encoder: the model in training.
        teacher: the model to distil from, needed by the objective "distill".
    """

    def __init__(self, encoder: Encoder, settings: TrainingSettings, teacher: Encoder | None = None):
        super().__init__()
        if "distill" in settings.objective and teacher is None:
            raise InputError("--objective distill needs a dense model to distil from; give --teacher.")
        self.encoder = encoder
        self.settings = settings
        self.head = MLPHead(encoder.model.config.hidden_size) if settings.mlp_head else nn.Identity()
        # Kept out of the module's parameters: it is neither trained nor saved.
        self._teacher = [teacher] if teacher is not None else []

    def check(self, example: Example) -> None:
        """Refuse data that the objective cannot use."""
        if "sup" in self.settings.objective and len(example) < 2:
            raise InputError(
                "--objective sup needs pairs (anchor, positive) or triplets with a hard negative, but the data has "
                "single sentences; give a table with those columns or --objective unsup."
            )

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        enabled = self.settings.precision == "bfloat16"
        return torch.autocast(self.encoder.device.type, torch.bfloat16, enabled=enabled)

    def _vectors(self, encoder: Encoder, columns: Sequence[Sequence[str]]) -> list[torch.Tensor]:
        texts = [text for column in columns for text in column]
        batch = encoder.pack(encoder.tokenize(texts, self.settings.max_length))
        with self._autocast():
            vectors = encoder.forward_packed(batch)
        return list(vectors.float().split(len(columns[0])))

    def forward(self, batch: Sequence[Example]) -> torch.Tensor:
        """The loss, a scalar.

        Args:
            batch: examples that all have the same number of sentences.
        """
        settings, weights = self.settings, self.settings.objective
        columns = [list(column) for column in zip(*batch, strict=True)]
        if set(weights) == {"unsup"}:
            columns = columns[:1]
        views = columns[:1] if "unsup" in weights else []  # the anchors once more, under another dropout mask
        vectors = self._vectors(self.encoder, columns + views)
        loss = torch.zeros((), device=vectors[0].device)
        if "unsup" in weights:
            contrast = info_nce(self.head(vectors[0]), self.head(vectors[-1]), temperature=settings.temperature)
            loss = loss + weights["unsup"] * contrast
        if "sup" in weights:
            anchors, positives, *negatives = (self.head(v) for v in vectors[: len(columns)])
            contrast = info_nce(
                anchors,
                positives,
                negatives[0] if negatives else None,
                temperature=settings.temperature,
                hard_negative_weight=settings.hard_negative_weight,
            )
            loss = loss + weights["sup"] * contrast
        if "distill" in weights:
            with torch.no_grad():
                wanted = torch.cat(self._vectors(self._teacher[0], columns))
            student = torch.cat(vectors[: len(columns)])
            term = distillation(student, wanted, similarity_weight=settings.similarity_weight)
            loss = loss + weights["distill"] * term
        return loss
