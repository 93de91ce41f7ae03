"""The text of a repair as `prune` takes it, before the repair: to fit a reconstruction on, and to choose by."""

from __future__ import annotations

from dataclasses import dataclass, field

from sparsecse.evaluation.dev import DevSet
from sparsecse.sources import DataOptions
from sparsecse.training import TrainingSettings
from sparsecse.training.examples import training_data
from sparsecse.training.held_out import hold_out, trained_on


@dataclass(frozen=True)
class RepairText:
    """What text, and what will be trained on it.

    data: of the repair. training: its settings; by default one pass over all.
    """

    data: DataOptions
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def load(self, *, dev: bool) -> tuple[list[str], DevSet | None]:
        """The sentences that some step of the repair takes, and the dev set that is held out, where there is one.

        dev: whether some sentences are for choices; they are those that the repair holds out too.
        """
        examples, scores = training_data(self.data, set(self.training.objective))
        held = None
        if dev and scores is None:
            examples, held = hold_out(examples, self.training.seed)
        return trained_on(examples, self.training), held
