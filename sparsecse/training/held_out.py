"""Which sentences a training sees, and which are held out of it for the agreement with the dense model."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sparsecse.evaluation import AgreementText
from sparsecse.evaluation.dev import SENTENCES, DevSet
from sparsecse.training.losses import Example
from sparsecse.training.sampling import unseen_rows
from sparsecse.training.settings import TrainingSettings

_LEAST = 20  # fewer sentences say nothing


def hold_out(examples: Sequence[Example], seed: int) -> tuple[list[Example], DevSet | None]:
    """Training examples, and the sentences of a tenth of them as a dev set; no sentence is in both.

    There are at most `SENTENCES`, drawn by the seed. Of too few examples none are held out.
    """
    count = min(SENTENCES, len(examples) // 10)
    chosen = set(random.Random(seed).sample(range(len(examples)), count))
    held_out = dict.fromkeys(sentence for row in sorted(chosen) for sentence in examples[row])
    if len(held_out) < _LEAST:
        return list(examples), None
    left = [
        example for row, example in enumerate(examples) if row not in chosen and held_out.keys().isdisjoint(example)
    ]
    return left, DevSet.of(AgreementText(list(held_out), "held out of training"))


def trained_on(examples: Sequence[Example], settings: TrainingSettings) -> list[str]:
    """The sentences, each once, of the examples that some step of a training with these settings takes."""
    unseen = set(unseen_rows(len(examples), settings)) if examples else set[int]()
    return list(dict.fromkeys(text for row, example in enumerate(examples) if row not in unseen for text in example))
