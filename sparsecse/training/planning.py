"""How long a training will take, reckoned from a few tried steps, and how many steps fit into a time budget."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from sparsecse.errors import InputError
from sparsecse.progress import WORTH_SAYING, duration
from sparsecse.training.settings import TrainingSettings

TRIED = 3
"""Steps that are tried."""

FEWEST = 20
"""Steps below which no training is planned, where the settings ask for more."""


@dataclass(frozen=True)
class Pace:
    """What the parts of a training take, in seconds.

    step: an optimiser step. text: a text's passes through the teachers; ready: to make these ready for them. dev: a dev
    score.
    """

    step: float
    text: float = 0.0
    ready: float = 0.0
    dev: float = 0.0


@dataclass(frozen=True)
class Work:
    """What a training is made of.

    examples: of `columns` texts each. per_step: examples of a step. eval_every: steps between dev scores.
    taught: whether teachers embed the texts first.
    """

    examples: int
    columns: int
    per_step: int
    eval_every: int
    taught: bool

    def seconds(self, steps: int, pace: Pace) -> float:
        """What that many steps take, the teachers' pass and the dev scores after the first step included."""
        texts = self.columns * min(self.examples, steps * self.per_step) if self.taught else 0
        return pace.ready + texts * pace.text + steps * pace.step + -(-steps // self.eval_every) * pace.dev

    def sentence(self, steps: int, pace: Pace) -> str:
        """For example `about 38 minutes for 500 steps of 64 texts, teacher pass included`."""
        of = "texts" if self.columns == 1 else "examples"
        teacher = ", teacher pass included" if self.taught else ""
        return f"about {duration(self.seconds(steps, pace))} for {steps} steps of {self.per_step} {of}{teacher}"


def plan(work: Work, pace: Pace, wanted: int, settings: TrainingSettings, spent: float = 0.0) -> tuple[int, str | None]:
    """The steps to take, and a sentence for the user where the work takes more than a minute or has been cut short.

    Args:
        wanted: steps without a time budget.
        spent: seconds of the budget that are gone.

    Raises:
        InputError: not even `FEWEST` steps fit into the budget.
    """
    steps, budget = wanted, settings.time_budget
    if budget is not None:
        left = 60 * budget - spent
        steps = bisect_right(range(1, wanted + 1), left, key=lambda count: work.seconds(count, pace))
        fewest = min(FEWEST, wanted)
        if steps < fewest:
            needed = duration(spent + work.seconds(fewest, pace))
            raise InputError(
                f"The training does not fit into `time_budget` {budget:g}: {fewest} steps, the fewest planned, "
                f"take about {needed}; allow more minutes, smaller batches or fewer teachers."
            )
    said = work.sentence(steps, pace)
    if steps < wanted:
        longer = duration(spent + work.seconds(wanted, pace))
        return steps, f"Training: {said}; {wanted} would take {longer}, and the budget is {duration(60 * budget)}"
    return steps, f"Training: {said}" if work.seconds(steps, pace) > WORTH_SAYING else None
