"""The loss of one batch: one pass over all its sentences, then the weighted objectives on the vectors."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sparsecse import distributed
from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.objectives import bootstrap, cosent, distillation, info_nce, matryoshka
from sparsecse.training.heads import MLPHead, Predictor
from sparsecse.training.momentum import KeyQueue, MomentumNetwork
from sparsecse.training.precision import autocast
from sparsecse.training.settings import TrainingSettings
from sparsecse.training.teacher import Teacher

Example = tuple[str, ...]
"""(sentence,), (anchor, positive) or (anchor, positive, hard negative); a graded pair's score is beside it."""


class BatchLoss(nn.Module):
    """Computes the settings' objective for a batch of examples.

    Its state dict is all that training moves: the encoder, the head and, where the objective has them, the momentum
    encoder, the queue and the predictor.

    Attributes:
        parts: into how many the sentences of a batch are cut for the encoder. More than one takes less memory and more
            time: each part's pass is made once for the loss, and again for its gradient (gradient caching, Gao et al.
            2021, arXiv 2101.06983). The loss is that of the whole batch; without dropout it is the same to rounding.

    Where processes compute together (`distributed`), each cuts its own share of the sentences into so many parts. The
    vectors of all are exchanged, and each process has the loss of the whole batch, whose gradient it carries to the
    encoder through its own sentences: the encoder's gradients are to be summed over the processes, while those of the
    layers over the vectors are whole in each.

    Args:
        encoder: the model in training.
        teacher: the vectors to distil from, needed by the objective "distill".
    """

    def __init__(self, encoder: Encoder, settings: TrainingSettings, teacher: Teacher | None = None):
        super().__init__()
        if "distill" in settings.objective and teacher is None:
            raise InputError("`objective` distill needs a dense model to distil from; give `teacher`.")
        self.encoder = encoder
        self.settings = settings
        self.teacher = teacher
        self.parts = 1
        size = encoder.dimension
        self.widths = settings.matryoshka_dims or (size,)
        if max(self.widths) > size:
            raise InputError(f"`matryoshka_dims` has {max(self.widths)}, and the model's vectors have {size} values.")
        if max(self.widths) < encoder.width():
            warnings.warn(
                f"`matryoshka_dims` has no width above {max(self.widths)}, and the model gives vectors of "
                f"{encoder.width()} values: the others are not trained.",
                stacklevel=2,
            )
        self.head = MLPHead(size) if settings.mlp_head else nn.Identity()
        moco, byol = "moco" in settings.objective, "byol" in settings.objective
        self.average = MomentumNetwork(encoder, self.head, settings.momentum) if moco or byol else None
        self.queue = KeyQueue(settings.queue_size, size) if moco else None
        self.predictor = Predictor(size) if byol else None
        self.to(encoder.device)

    def check(self, examples: Sequence[Example], scores: Sequence[float] | None = None) -> None:
        """Refuse data that the objective cannot use."""
        if "sup" in self.settings.objective and len(examples[0]) < 2:
            raise InputError(
                "`objective` sup needs pairs (anchor, positive) or triplets with a hard negative, but the data has "
                "single sentences; give a table with those columns or `objective` unsup."
            )
        if "graded" in self.settings.objective and (scores is None or len(examples[0]) != 2):
            raise InputError(
                "`objective` graded needs pairs with gold scores, but the data has none; give a pair set or a table "
                "with the columns sentence1, sentence2 and score."
            )
        if scores is not None and len(scores) != len(examples):
            raise InputError(f"There are {len(scores)} gold scores for {len(examples)} pairs; give one a pair.")
        if self.queue is not None and self.settings.queue_size >= len(examples):
            raise InputError(
                f"`queue_size` {self.settings.queue_size} is not below the number of training examples "
                f"({len(examples)}): sentences would be their own negatives; lower it."
            )

    @torch.no_grad()
    def update_average(self) -> None:
        """Let the momentum encoder follow, after an optimiser step."""
        if self.average is not None:
            self.average.update(self.encoder, self.head)

    def _vectors(self, encoder: Encoder, columns: Sequence[Sequence[str]]) -> list[torch.Tensor]:
        texts = [text for column in columns for text in column]
        token_ids = encoder.tokenize(distributed.own(texts), self.settings.max_length)
        size = max(1, -(-len(token_ids) // self.parts))
        parts = [encoder.pack(token_ids[start : start + size]) for start in range(0, len(token_ids), size)]
        with autocast(self.settings.precision, self.encoder.device):
            if not parts:  # more processes than sentences
                vectors = torch.empty(0, encoder.dimension, device=encoder.device)
            elif self.parts == 1:
                vectors = encoder.forward_packed(parts[0])
            else:
                # Calls it again in the backward pass, with the same random numbers.
                vectors = torch.cat([checkpoint(encoder.forward_packed, part, use_reentrant=False) for part in parts])
        distributed.confirm()
        return list(distributed.gather_rows(vectors.float(), len(texts)).split(len(columns[0])))

    @torch.no_grad()
    def _keys(self, columns: Sequence[Sequence[str]]) -> list[torch.Tensor]:
        assert self.average is not None
        return [self.average.head(vectors) for vectors in self._vectors(self.average.encoder, columns)]

    def forward(self, batch: Sequence[Example], scores: torch.Tensor | None = None) -> torch.Tensor:
        """The loss, a scalar; with "moco" the batch's keys are in the queue afterwards.

        Args:
            batch: examples that all have the same number of sentences.
            scores: [batch], gold scores of the pairs, for "graded".
        """
        settings, weights = self.settings, self.settings.objective
        columns = [list(column) for column in zip(*batch, strict=True)]
        if not weights.keys() & {"sup", "graded", "distill"}:
            columns = columns[:1]
        # The anchors once more, under another dropout mask.
        views = columns[:1] if weights.keys() & {"unsup", "byol"} else []
        vectors = self._vectors(self.encoder, columns + views)
        given = vectors[: len(columns)]
        terms: dict[str, torch.Tensor] = {}
        if "unsup" in weights:
            contrast = partial(info_nce, temperature=settings.temperature)
            terms["unsup"] = matryoshka(contrast, self.widths, self.head(vectors[0]), self.head(vectors[-1]))
        if "sup" in weights:
            contrast = partial(
                info_nce, temperature=settings.temperature, hard_negative_weight=settings.hard_negative_weight
            )
            terms["sup"] = matryoshka(contrast, self.widths, *(self.head(v) for v in given))
        if self.average is not None:
            keys = self._keys(columns[:1] * (2 if self.predictor is not None else 1))
        if self.queue is not None:
            terms["moco"] = info_nce(
                self.head(vectors[0]), keys[0], queue=self.queue.keys(), temperature=settings.temperature
            )
            self.queue.push(keys[0])
        if self.predictor is not None:
            predicted = self.predictor(self.head(torch.cat([vectors[0], vectors[-1]])))
            terms["byol"] = bootstrap(predicted, torch.cat([keys[1], keys[0]]))
        if "graded" in weights:
            assert scores is not None
            graded = partial(cosent, scores=scores.to(given[0].device), temperature=settings.temperature)
            terms["graded"] = matryoshka(graded, self.widths, *given)
        if "distill" in weights:
            assert self.teacher is not None
            student = torch.cat(given)
            wanted = self.teacher([text for column in columns for text in column]).to(student.device)
            distil = partial(distillation, similarity_weight=settings.similarity_weight)
            terms["distill"] = matryoshka(distil, self.widths, student, wanted)
        return torch.stack([weights[name] * term for name, term in terms.items()]).sum()
