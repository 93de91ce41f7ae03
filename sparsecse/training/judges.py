"""What picks the best weights of a training run: graded pairs, or agreement with the dense model on held-out text."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sparsecse.datasets import PairSet
from sparsecse.encoders import Encoder
from sparsecse.evaluation import spearman
from sparsecse.evaluation.agreement import similarity_spearman
from sparsecse.runtime import Runtime
from sparsecse.training.losses import Example
from sparsecse.training.settings import TrainingSettings

HELD_OUT = 600
"""The most sentences that are held out of training for the agreement."""

_LEAST = 20  # fewer sentences say nothing


@dataclass(frozen=True)
class Judge:
    """The dev score of a training run: the mean of its parts.

    name: what it is measured on, for the record.
    """

    name: str
    parts: tuple[Callable[[Encoder], float], ...]

    def __call__(self, encoder: Encoder) -> float:
        return sum(part(encoder) for part in self.parts) / len(self.parts)


def judge_of(
    settings: TrainingSettings, examples: Sequence[Example], pairs: PairSet | None, dense: Callable[[], Encoder] | None
) -> tuple[list[Example], Judge | None]:
    """The examples that are left for training, and the dev score that `settings.select` asks for.

    Without graded pairs it is the agreement; without enough sentences, or a dense model, it is None.

    Args:
        examples: tuples of sentences; for the agreement a tenth of them, at most `HELD_OUT`, is held out.
        pairs: graded pairs.
        dense: loads the model that the agreement is measured with, where it is measured.
    """
    parts: list[Callable[[Encoder], float]] = []
    names = []
    left = list(examples)
    if pairs is not None and settings.select != "agreement":
        parts.append(lambda encoder: spearman(Runtime(encoder, "float32"), pairs))
        names.append(f"{pairs.name} ({pairs.split})")
    if dense is not None and (settings.select != "dev" or pairs is None):
        rest, held_out = hold_out(examples, settings.seed)
        if len(held_out) >= _LEAST:
            left = rest
            parts.append(Agreement(held_out, dense()))
            names.append(f"agreement on {len(held_out)} held-out sentences")
    return left, Judge(", ".join(names), tuple(parts)) if parts else None


def hold_out(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[str]]:
    """Training examples, and the distinct sentences of those that are held out; no sentence is in both."""
    count = min(HELD_OUT, len(examples) // 10)
    chosen = set(random.Random(seed).sample(range(len(examples)), count))
    held_out = dict.fromkeys(sentence for row in sorted(chosen) for sentence in examples[row])
    left = [
        example for row, example in enumerate(examples) if row not in chosen and held_out.keys().isdisjoint(example)
    ]
    return left, list(held_out)


class Agreement:
    """Spearman x100 between a model's similarities of sentences and the dense model's; see `evaluation.agreement`."""

    def __init__(self, sentences: Sequence[str], dense: Encoder):
        self._sentences = list(sentences)
        self._wanted = self._unit_vectors(dense)

    def __call__(self, encoder: Encoder) -> float:
        return 100 * similarity_spearman(self._unit_vectors(encoder), self._wanted)

    def _unit_vectors(self, encoder: Encoder) -> torch.Tensor:
        return F.normalize(torch.as_tensor(Runtime(encoder, "float32").encode(self._sentences)), dim=1)
