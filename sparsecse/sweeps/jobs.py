"""What a process of a sweep does: the scores and dense figures that cells share, and the cells, each a run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparsecse.benchmarking.machine import machine
from sparsecse.reporting.quality import quality
from sparsecse.stages.evaluate import evaluate_dense
from sparsecse.stages.pipeline import Plan, run
from sparsecse.stages.score import score
from sparsecse.workdir import Record, Workdir, package_versions

SCORE, DENSE = "score", "eval-dense"
"""The stages that cells share."""


@dataclass(frozen=True)
class Place:
    """Where a job works.

    folder: its run directory. cwd: what relative paths start from. threads: its share of the processors.
    command: the command line, for the records.
    """

    folder: Path
    cwd: Path
    threads: int
    command: str = ""

    @contextmanager
    def taken(self) -> Iterator[Workdir]:
        """The run directory, once no other process works in it."""
        os.chdir(self.cwd)
        torch.set_num_threads(self.threads)
        workdir = Workdir(self.folder, self.command)
        with workdir.lock(wait=True):
            yield workdir


@dataclass(frozen=True)
class SharedJob:
    """One stage that cells of `plan` share: `SCORE` or `DENSE`."""

    plan: Plan
    stage: str
    place: Place

    def __call__(self) -> dict[str, Any]:
        plan = self.plan
        with self.place.taken() as workdir:
            if self.stage == SCORE:
                record, reused = score(workdir, plan.model, plan.data, method=plan.method, scoring=plan.scoring)
            else:
                record, reused = evaluate_dense(workdir, plan.evaluation, plan.model)
        return {"reused": reused, "inputs": dict(record.inputs)}


@dataclass(frozen=True)
class CellJob:
    """A cell as a run; shared: (stage, run directory) of what it takes from others."""

    plan: Plan
    place: Place
    shared: Sequence[tuple[str, Path]]

    def __call__(self) -> dict[str, Any]:
        with self.place.taken() as workdir:
            for stage, source in self.shared:
                workdir.adopt(stage, Workdir(source))
            done = run(workdir, self.plan)
        return _result(self.plan, {stage: record for stage, (record, _) in done.items()})


def _result(plan: Plan, records: dict[str, Record]) -> dict[str, Any]:
    evaluated, pruned = records["eval"].info, records["prune"].info
    headlines = {kind.title: kind.headline for kind in quality(evaluated)}
    return {
        "figures": {title: {"dense": row.dense, "pruned": row.pruned} for title, row in headlines.items()},
        "sparsity": pruned["auto"]["sparsity"] if "auto" in pruned else plan.recipe.sparsity,
        "parameters": pruned["parameters"],
        "dense_parameters": pruned["dense_parameters"],
        "kept": pruned.get("kept"),
        "training": records["finetune"].info if "finetune" in records else None,
        "eval": dict(evaluated),
        "stage_seconds": {stage: record.seconds for stage, record in records.items()},
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "versions": dict(package_versions()),
    }
