"""A sweep: cells with their folders, what they share, and what is finished."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sparsecse.cells.cells import Cell, Engine, Outcome, Room, check_identity, here, measure_cells, portable
from sparsecse.datasets import PairSet
from sparsecse.errors import InputError
from sparsecse.evaluation import Tasks
from sparsecse.files import file_hash, read_json, text_hash, write_json
from sparsecse.manifest import contents
from sparsecse.packing.folder import model_name
from sparsecse.progress import Progress, silent
from sparsecse.scoring.data import scored_set
from sparsecse.stages.pipeline import Plan
from sparsecse.stages.score import score_settings
from sparsecse.sweeps.grid import Settings, value_text
from sparsecse.sweeps.jobs import DENSE, SCORE, CellJob, Place, SharedJob

SWEEP_FILE = "sweep.json"
PLOT_FILE = "sweep.png"


def _hash(value: Any) -> str:
    return text_hash(json.dumps(value, sort_keys=True, default=str))


@dataclass(frozen=True)
class SweepCell:
    """A cell of a sweep. number: from 0, in the order of the file; settings: as the file has them."""

    number: int
    settings: Settings
    plan: Plan

    @cached_property
    def key(self) -> str:
        """The name of its folder: what everyone asks for, and a hash of all settings."""
        plan = self.plan
        amount = "auto" if plan.recipe.auto else value_text(plan.recipe.sparsity) or "cut"
        words = f"{model_name(plan.model.name)}-{plan.method}-{amount}-seed{plan.scoring.seed}"
        return f"{re.sub(r'[^A-Za-z0-9.]+', '-', words)[-60:].strip('-')}-{_hash(asdict(plan))[:8]}"

    def text(self, names: Sequence[str]) -> str:
        """`Cell 3 (sparsity 0.2, seed 1)`: those of the settings that it has."""
        words = ", ".join(f"{name} {value_text(self.settings[name])}" for name in names if name in self.settings)
        return f"Cell {self.number}" + (f" ({words})" if words else "")


class _Sources:
    """What cells are made from, each looked at once."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def _once(self, what: Any, look: Callable[[], Any]) -> Any:
        key = _hash(what)
        if key not in self._known:
            self._known[key] = look()
        return self._known[key]

    def pairs(self, plan: Plan) -> PairSet:
        """What is scored on."""
        own = plan.scoring
        drawn = (own.positives, own.dropout, own.limit, own.seed)
        return self._once(("pairs", asdict(plan.data), drawn), lambda: scored_set(plan.data, own))

    def tasks(self, plan: Plan) -> Tasks:
        asked = plan.evaluation
        return self._once(("tasks", asked.tasks, asked.data_dir), asked.load)

    def check(self, plan: Plan) -> None:
        what = (plan.tasks, plan.data.data_dir, plan.dev, plan.aligned, plan.teachers, plan.recipe.removes_nothing)
        self._once(("check", what), plan.check)

    def content(self, name: str) -> str:
        """A hash of a file or folder; of anything else the name: what it gives is taken to stay."""
        path = Path(name)
        if path.is_dir():
            return self._once(("content", name), lambda: _hash(contents(path)))
        return self._once(("content", name), lambda: file_hash(path)) if path.is_file() else name

    def identity(self, plan: Plan) -> dict[str, Any]:
        """What a finished cell must have been made from."""
        others = [plan.rewind_to, *(one.name for one in plan.teachers), *(plan.dev.names if plan.dev else ())]
        return {
            "model": self.content(plan.model.name),
            "data": self.pairs(plan).fingerprint(),
            "train_data": self.content(plan.train_data.name),
            "tasks": self.tasks(plan).fingerprint(),
            "others": [self.content(name) for name in [*filter(None, others), *plan.recipe.vocab]],
        }


class _Results:
    """The ledger of a sweep: a JSON file a cell, so that several processes can write, each its own."""

    def __init__(self, folder: Path, about: Mapping[str, Mapping[str, Any]]):
        """about: for each cell what its file says besides the result."""
        self._folder = folder
        self._about = about

    def path(self, key: str) -> Path:
        return self._folder / f"{key}.json"

    def __contains__(self, key: object) -> bool:
        return self.path(str(key)).exists()

    def keep(self, key: str, result: dict[str, Any]) -> None:
        date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        write_json(self.path(key), {**self._about[key], **result, "date": date})

    def read(self, key: str) -> dict[str, Any]:
        found = read_json(self.path(key))
        if not isinstance(found, dict) or "figures" not in found:
            raise InputError(f"{self.path(key)} is no result of a sweep; move it away, and the cell is measured again.")
        return found


class Sweep:
    """Cells below one folder.

        sweep.json, sweep.png    what was found
        results/KEY.json         a finished cell
        cells/KEY/               its run directory
        shared/                  run directories of what cells share: scores, the dense models' figures

    Raises:
        InputError: a plan that a later stage would refuse, two that are the same, a file in the place of one of ours,
            or a result that was measured of another model or other data.
    """

    def __init__(self, out: Path, cells: Sequence[tuple[Settings, Plan]], command: str = ""):
        self.out = out
        self.command = command
        self.cells = [SweepCell(number, settings, plan) for number, (settings, plan) in enumerate(cells)]
        self.failures: dict[str, Outcome] = {}
        self._sources = _Sources()
        if (out / PLOT_FILE).exists() and not (out / SWEEP_FILE).exists():
            raise InputError(f"{out / PLOT_FILE} was not written by a sweep; move it away, or give another `out`.")
        before = read_json(out / SWEEP_FILE) if (out / SWEEP_FILE).exists() else {"sweep": ""}
        if not isinstance(before, dict) or "sweep" not in before:
            raise InputError(f"{out / SWEEP_FILE} is not the file of a sweep; move it away, or give another `out`.")
        about: dict[str, dict[str, Any]] = {}
        for cell in self.cells:
            if cell.key in about:
                first = list(about).index(cell.key)
                raise InputError(f"Cells {first} and {cell.number} are the same; leave one of them out.")
            try:
                self._sources.check(cell.plan)
                self._shared(cell.plan)  # which looks up the method too
                about[cell.key] = self._sources.identity(cell.plan)
            except InputError as error:
                raise InputError(f"Cell {cell.number}: {error}") from None
        self.results = _Results(
            out / "results", {cell.key: {"settings": dict(cell.settings), **about[cell.key]} for cell in self.cells}
        )
        for key, identity in about.items():
            if key in self.results:
                check_identity(self.results.path(key), self.results.read(key), identity)

    def folder(self, cell: SweepCell) -> Path:
        return self.out / "cells" / cell.key

    def _shared(self, plan: Plan) -> dict[str, Path]:
        """The run directories that a plan takes stages from, by the stage."""
        pairs, asked = self._sources.pairs(plan), plan.evaluation
        scored = score_settings(plan.model, plan.data, pairs, plan.method, plan.scoring)
        measured = [plan.model.settings(), asked.recorded(self._sources.tasks(plan)), asked.data_dir]
        content = self._sources.content(plan.model.name)  # a record names weights and sizes, not all of config.json
        found = {SCORE: ("score", scored), DENSE: ("dense", measured)}
        return {
            stage: self.out / "shared" / f"{name}-{_hash([content, what])[:12]}"
            for stage, (name, what) in found.items()
        }

    def measure(
        self,
        engine: Engine = here,
        room: Room | None = None,
        *,
        only: int | None = None,
        progress: Progress = silent,
        told: Callable[[SweepCell, Outcome], None] = lambda cell, outcome: None,
    ) -> None:
        """Measure what is not finished: first what cells share, then the cells.

        Args:
            engine: computes the cells. room: what it has; by default one thread.
            only: the number of the only cell to measure; by default all.
            told: called with each cell as it ends.
        """
        room = room or Room()
        wanted = {cell.key: cell for cell in self.cells if only in (None, cell.number) and cell.key not in self.results}
        broken = self._measure_shared(list(wanted.values()), engine, room, progress("Sharing"))
        jobs: dict[str, CellJob] = {}
        for key, cell in wanted.items():
            shared = self._shared(cell.plan)
            if cause := next((broken[folder] for folder in shared.values() if folder in broken), None):
                self._fail(cell, replace(cause, key=key), told)
            else:
                places = tuple((stage, folder.absolute()) for stage, folder in shared.items())
                jobs[key] = CellJob(cell.plan, self._place(self.folder(cell)), places)
        measure_cells(
            _as_cells(jobs, room),
            self.results,
            engine,
            failed=lambda outcome: self._fail(wanted[outcome.key], outcome, told),
            kept=lambda outcome: told(wanted[outcome.key], outcome),
            progress=progress("Measuring"),
        )

    def _measure_shared(
        self, cells: Sequence[SweepCell], engine: Engine, room: Room, report: Callable[[int, int], None]
    ) -> dict[Path, Outcome]:
        """Measure what cells share; returns what failed, by its run directory."""
        jobs: dict[str, SharedJob] = {}
        for cell in cells:
            for stage, folder in self._shared(cell.plan).items():
                jobs.setdefault(str(folder), SharedJob(cell.plan, stage, self._place(folder)))
        failed = {}
        for done, outcome in enumerate(engine(_as_cells(jobs, room)), 1):
            if outcome.error is not None:
                failed[Path(outcome.key)] = outcome
            report(done, len(jobs))
        return failed

    def _place(self, folder: Path) -> Place:
        return Place(folder.absolute(), Path.cwd(), 1, self.command)

    def _fail(self, cell: SweepCell, outcome: Outcome, told: Callable[[SweepCell, Outcome], None]) -> None:
        outcome = self.failures[cell.key] = portable(outcome)
        told(cell, outcome)

    def content(self, name: str) -> dict[str, Any]:
        """What is finished and what failed, as `sweep.json` has it; name: of the sweep's file."""
        return {"sweep": name, "cells": [self.about(cell) for cell in self.cells]}

    def about(self, cell: SweepCell) -> dict[str, Any]:
        """A cell: its number, settings and folder, its state (finished, failed, waiting), its result or error."""
        known: dict[str, Any] = {
            "number": cell.number,
            "settings": dict(cell.settings),
            "folder": str(self.folder(cell)),
            "state": "waiting",
        }
        if cell.key in self.results:
            return {**known, "state": "finished", "result": self.results.read(cell.key)}
        if cell.key in self.failures:
            return {**known, "state": "failed", "error": str(self.failures[cell.key].error)}
        return known


def _as_cells(jobs: Mapping[str, SharedJob | CellJob], room: Room) -> list[Cell]:
    """The jobs for an engine, each with its share of the threads."""
    share = room.share(len(jobs))
    return [Cell(key, replace(job, place=replace(job.place, threads=share)), share) for key, job in jobs.items()]
