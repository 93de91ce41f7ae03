"""All stages in their order, each skipped where the run directory already has what it would write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsecse.datasets import load_sentences
from sparsecse.errors import InputError
from sparsecse.progress import Progress, silent
from sparsecse.pruning.masks import Budget
from sparsecse.pruning.recipe import Recipe
from sparsecse.scoring import ScoringSettings
from sparsecse.sources import DataOptions, DevOptions, ModelOptions
from sparsecse.stages.agreement import run_text
from sparsecse.stages.bench import bench_run
from sparsecse.stages.evaluate import EvaluationSettings, check_aligned, evaluate_run
from sparsecse.stages.pack import check_out, pack
from sparsecse.stages.prune import prune, rewind
from sparsecse.stages.score import score
from sparsecse.stages.text import RepairText
from sparsecse.stages.train import DENSE, StepProgress, finetune
from sparsecse.training import TrainingSettings
from sparsecse.workdir import Record, Workdir


@dataclass(frozen=True)
class Plan:
    """What `run` does.

    dev: what all choices are made on, or None for the defaults of `dev.dev_sets`.
    teachers: of the repair; see `train.finetune`.
    rewind_to: a checkpoint, or None to keep the scored model's weights.
    training: settings of the repair, or None for no repair.
    aligned: the model is for an index of the dense one's vectors: no other teacher, and `eval` searches such an index.
    packs: whether the result is packed, into `out`.
    bench_sentences: how many of the training sentences are timed; 0 for no benchmark.
    """

    model: ModelOptions
    data: DataOptions
    train_data: DataOptions
    recipe: Recipe
    tasks: str
    training: TrainingSettings | None
    method: str = "taylor"
    scoring: ScoringSettings = field(default_factory=ScoringSettings)
    dev: DevOptions | None = None
    teachers: Sequence[ModelOptions] = ()
    dtype: str = "float32"
    rewind_to: str | None = None
    out: Path | None = None
    aligned: bool = False
    packs: bool = True
    bench_sentences: int = 256
    bench: Mapping[str, Any] = field(default_factory=dict)

    def stages(self) -> list[str]:
        """The stages that this plan has, in their order."""
        optional = {"rewind": self.rewind_to is not None, "finetune": self.training is not None}
        optional |= {"pack": self.packs, "bench": self.bench_sentences > 0}
        every = ("score", "prune", "rewind", "finetune", "eval", "pack", "bench")
        return [stage for stage in every if optional.get(stage, True)]

    @property
    def evaluation(self) -> EvaluationSettings:
        """How both models are evaluated."""
        minimum = self.scoring.objective.positive_minimum
        return EvaluationSettings(self.tasks, data_dir=self.data.data_dir, positive_minimum=minimum)

    def check(self) -> None:
        """Refuse before the first stage what a later one would refuse after hours."""
        if self.aligned and any(one.name != DENSE for one in self.teachers):
            raise InputError(
                f"`aligned` keeps the vectors in the dense model's space; leave `teacher` out, or give {DENSE}."
            )
        if self.recipe.removes_nothing:
            Budget.of(())  # says which options there are
        check_aligned(self.evaluation.load(), self.aligned)
        named = None if self.dev is None else self.dev.without_held_out()[0]
        if named is not None:
            named.load()


def run(
    workdir: Workdir,
    plan: Plan,
    *,
    progress: Progress = silent,
    step_progress: StepProgress | None = None,
    begin: Callable[[str, int, int], None] = lambda stage, number, total: None,
    note: Callable[[str], None] | None = None,
) -> dict[str, tuple[Record, bool]]:
    """Score, prune, rewind, fine-tune, evaluate, pack and time; returns each stage's record and whether it was there.

    begin: called before each stage with its name, its number from 1, and how many there are.
    note: called with what the repair will take; see `training.train`.

    Without dev sets and gold scores what is chosen is what agrees best with the dense model on held-out sentences.

    A rewind or repair of an earlier plan that this one does not have must not be taken for the newest model: it is
    moved aside (`Workdir.retire`).
    """
    workdir.check_folders()
    check_out(workdir, plan.out)
    plan.check()
    order = plan.stages()

    def starts(stage: str) -> None:
        begin(stage, order.index(stage) + 1, len(order))

    starts("score")
    done = {
        "score": score(
            workdir,
            plan.model,
            plan.data,
            method=plan.method,
            scoring=plan.scoring,
            progress=progress,
        )
    }
    starts("prune")
    done["prune"] = prune(
        workdir,
        plan.recipe,
        dev=plan.dev,
        text=RepairText(plan.train_data, plan.training or TrainingSettings()),
        where_possible=True,
        trained_after=plan.training is not None,
        progress=progress,
    )
    if plan.rewind_to is None:
        workdir.retire("rewind")
    else:
        starts("rewind")
        done["rewind"] = rewind(workdir, plan.rewind_to)
    held_out = False
    if plan.training is None:
        workdir.retire("finetune")
    else:
        starts("finetune")
        done["finetune"] = finetune(
            workdir,
            plan.train_data,
            plan.training,
            plan.dev,
            teachers=plan.teachers,
            progress=step_progress,
            teacher_progress=progress,
            note=note,
        )
        held_out = done["finetune"][0].settings["held_out"]
    starts("eval")
    done["eval"] = evaluate_run(
        workdir,
        plan.evaluation,
        agreement_text=run_text(workdir, plan.train_data, plan.training, held_out=held_out),
        aligned=plan.aligned,
        progress=progress,
    )
    if plan.packs:
        starts("pack")
        done["pack"] = pack(workdir, plan.out, dtype=plan.dtype)
    if plan.bench_sentences:
        starts("bench")
        data = plan.train_data
        sentences = load_sentences(data.name, columns=data.columns, split=data.split, data_dir=data.data_dir)
        done["bench"] = bench_run(workdir, sentences[: plan.bench_sentences], progress=progress, **plan.bench)
    return done
