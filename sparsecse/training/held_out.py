"""Sentences that are held out of training, for the agreement with the dense model on them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sparsecse.evaluation import AgreementText
from sparsecse.evaluation.dev import SENTENCES, DevSet
from sparsecse.training.losses import Example

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
