"""The scoring methods by name: what each is, which settings it uses, and the function that scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sparsecse.datasets import PairSet
from sparsecse.encoders import Encoder
from sparsecse.scoring.activation import activation
from sparsecse.scoring.baselines import l1, magnitude, random
from sparsecse.scoring.fisher import fisher, fisher_block
from sparsecse.scoring.oracle import leave_one_out_scores
from sparsecse.scoring.scores import Scores
from sparsecse.scoring.settings import ScoringSettings
from sparsecse.scoring.taylor import contributions, taylor_batch, taylor_mixed, taylor_signed
from sparsecse.settings import choose


class Score(Protocol):
    """Scores every head and neuron of an encoder on graded pairs, or on dropout views.

    progress is called with (done, in all).
    """

    def __call__(
        self,
        encoder: Encoder,
        pairs: PairSet,
        settings: ScoringSettings,
        progress: Callable[[int, int], None] | None = None,
    ) -> Scores: ...


@dataclass(frozen=True)
class Method:
    """One way to score.

    description: a few words, for `--help`.
    uses: the fields of `ScoringSettings` that its scores depend on, besides rounding.
    resumes: whether it goes on from `ScoringSettings.partial` after an interruption.
    """

    description: str
    uses: frozenset[str]
    score: Score
    resumes: bool = False


def _taylor(
    encoder: Encoder,
    pairs: PairSet,
    settings: ScoringSettings,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    return contributions(
        encoder,
        pairs,
        settings.objective,
        batch_size=settings.batch_size,
        precision=settings.precision,
        progress=progress,
    )


_GRADIENT = frozenset({"objective", "precision"})

METHODS: dict[str, Method] = {
    "taylor": Method("the paper's contribution, E|dL/dg| over sentences", _GRADIENT, _taylor),
    "taylor-batch": Method("|dL/dg| of batches of 100, each layer normalised", _GRADIENT | {"seed"}, taylor_batch),
    "taylor-mixed": Method("alignment and uniformity scored apart, normalised, then mixed", _GRADIENT, taylor_mixed),
    "taylor-signed": Method("-dL/dg, the change of L that the first order promises", _GRADIENT, taylor_signed),
    "fisher": Method("E(dL/dg)^2, the diagonal Fisher information", _GRADIENT, fisher),
    "fisher-block": Method("greedy elimination by each layer's full Fisher information", _GRADIENT, fisher_block),
    "activation": Method("size of activations times norm of output weights", frozenset({"precision"}), activation),
    "magnitude": Method("L2 norm of weights", frozenset(), lambda encoder, *_, **__: magnitude(encoder)),
    "l1": Method("L1 norm of weights", frozenset(), lambda encoder, *_, **__: l1(encoder)),
    "random": Method("chance", frozenset({"seed"}), lambda encoder, _, settings, *__: random(encoder, settings.seed)),
    "leave-one-out": Method(
        "the true change of L when a head, or a group of neurons, is removed; slow",
        frozenset({"objective", "group_size"}),
        leave_one_out_scores,
        resumes=True,
    ),
}


def scoring_method(name: str) -> Method:
    """The method of that name; an unknown one raises `InputError`."""
    choose("method", name, METHODS)
    return METHODS[name]
