"""What is scored on: graded pairs, or sentences that are their own positives under dropout."""

from __future__ import annotations

from itertools import chain

from sparsecse.datasets import PairSet, dropout_views
from sparsecse.errors import InputError
from sparsecse.scoring.settings import ScoringSettings
from sparsecse.sources import DataOptions


def scored_set(data: DataOptions, scoring: ScoringSettings) -> PairSet:
    """What is scored on: the graded pairs, or `DropoutViews` of the sentences where there are none or they are wanted.

    Raises:
        InputError: gold positives are wanted of data without gold scores; a dropout for gold positives; one sentence
            alone.
    """
    pairs = None if scoring.positives == "dropout" else data.graded()
    if pairs is None and scoring.positives == "gold":
        raise InputError(
            f"{data.name} has no gold scores for `positives` gold; add a column 'score' from 0 to 5, or leave "
            f"`positives` out."
        )
    if pairs is None:
        views = dropout_views(
            data.name,
            split=data.split,
            data_dir=data.data_dir,
            columns=data.columns,
            limit=scoring.limit,
            dropout=scoring.dropout,
            seed=scoring.seed,
        )
        return _of_several(views)
    if scoring.dropout is not None:
        raise InputError(
            f"`dropout` {scoring.dropout:g} is for dropout positives, and {pairs.source} has gold scores; leave it out "
            f"or add `positives` dropout."
        )
    return _of_several(pairs)


def _of_several(pairs: PairSet) -> PairSet:
    if all(text == pairs.first[0] for text in chain(pairs.first, pairs.second)):
        raise InputError(
            f"{pairs.source} has one sentence alone, again and again; uniformity needs several, so add others."
        )
    return pairs
