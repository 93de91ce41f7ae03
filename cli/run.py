"""`sparsecse run`: every stage with one command; a second call does only what is missing."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from sparsecse.cli import options
from sparsecse.cli.groups import takes
from sparsecse.cli.output import StageTimes, note, show, step_progress
from sparsecse.cli.session import (
    DEFAULT_WORKDIR,
    named_data,
    named_dev,
    named_model,
    note_prompts,
    session,
    set_threads,
)
from sparsecse.pruning.recipe import Recipe
from sparsecse.scoring.settings import ScoringSettings
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.training.settings import TrainingSettings
from sparsecse.workdir import Workdir

if TYPE_CHECKING:
    from sparsecse.stages import Plan

RewindTo = Annotated[
    str | None,
    typer.Option("--rewind-to", help="Checkpoint whose weights the kept structures take.", rich_help_panel="pruning"),
]
Repair = Annotated[
    bool, typer.Option("--finetune/--no-finetune", help="Repair the pruned model.", rich_help_panel="training")
]
Bench = Annotated[bool, typer.Option("--bench/--no-bench", help="Time dense against pruned at the end.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Packed folder; by default `packed` in the run directory.",
        rich_help_panel="run directory and output",
    ),
]
RunTasks = Annotated[
    str | None,
    typer.Option(
        "--tasks",
        help="Tasks to evaluate; by default demo (its similarity and its retrieval) for --data demo, else sts.",
        rich_help_panel="data",
    ),
]


@takes(
    reading=DataOptions(),
    scoring=ScoringSettings(),
    pruning=Recipe(reconstruct=True),
    training=TrainingSettings(),
    loading=ModelOptions(),
)
def run(
    model: options.Model,
    *,
    data: options.ScoreData = "stsb",
    reading: DataOptions,
    train_data: options.TrainData = None,
    tasks: RunTasks = None,
    method: options.Method = "taylor",
    scoring: ScoringSettings,
    pruning: Recipe,
    dev: options.Dev = None,
    rewind_to: RewindTo = None,
    repair: Repair = True,
    training: TrainingSettings,
    teacher: options.Teacher = None,
    dtype: options.Dtype = "float32",
    bench: Bench = True,
    out: Out = None,
    aligned: options.Aligned = False,
    loading: ModelOptions,
    threads: options.Threads = None,
    nproc: options.Processes = 1,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Score, prune, rewind, fine-tune, evaluate, pack and time a model; goes on where an earlier call stopped.

    Without --dev and gold scores in --data, choices are made by agreement with the dense model on held-out
    sentences.
    """
    with session(workdir, nproc=nproc) as run_directory:
        note(f"Loading {model}")  # first: importing torch and transformers takes seconds
        set_threads(threads)
        from sparsecse import stages
        from sparsecse.cli.tables import (
            BenchTable,
            agreement_tables,
            aligned_tables,
            change_table,
            cut_tables,
            evaluation_tables,
            size_table,
        )
        from sparsecse.reporting.notes import cut_notes, evaluation_notes

        page = stages.report_path(run_directory)
        stages.check_report(page)

        plan = plan_of(
            run_directory,
            model=model,
            data=data,
            reading=reading,
            train_data=train_data,
            tasks=tasks,
            method=method,
            scoring=scoring,
            pruning=pruning,
            dev=dev,
            rewind_to=rewind_to,
            repair=repair,
            training=training,
            teacher=teacher,
            aligned=aligned,
            loading=loading,
        )
        note_prompts(plan.model)
        plan = replace(
            plan,
            packs=True,
            dtype=dtype,
            out=out,
            bench_sentences=256 if bench else 0,
            bench={"threads": threads, "orders": ("given",), "rounds": 3},
        )
        times = StageTimes()
        done = stages.run(
            run_directory,
            plan,
            progress=times.progress,
            step_progress=step_progress("Fine-tuning", times.progress),
            begin=times.begin,
            note=note,
        )
        seconds = times.end()
        for stage, (_, reused) in done.items():
            note(f"{stage}: {'already there' if reused else f'{seconds[stage]:.0f} s'}")
        for line in cut_notes(done["prune"][0].info):
            note(line)
        results = done["eval"][0].info
        packed = done["pack"][0].info
        tables: list[RenderableType] = [
            *cut_tables(done["prune"][0].info),
            *([stages.training_summary(done["finetune"][0])] if repair else []),
            *evaluation_tables({"dense": results["dense"], "pruned": results["pruned"]}),
            *aligned_tables(results),
            *agreement_tables(results),
        ]
        if "bench" in done:
            report = done["bench"][0].info
            tables += [BenchTable(report), size_table(report["models"])]
        for line in evaluation_notes(results["dense"]):
            note(line)
        found = stages.gather_report(run_directory)
        stages.write_report(found, page, png=False)
        places = [f"Packed into {_near(Path(packed['path']))}", f"Report: {_near(page)}"]
        summary = change_table("Before and after", found.summary())
        show(
            json,
            {stage: asdict(record) for stage, (record, _) in done.items()},
            *tables,
            summary,
            Text("\n".join(places)),
            written=packed["path"],
        )
        if json:
            for line in places:
                note(line)


def plan_of(
    run: Workdir,
    *,
    model: str,
    data: str,
    reading: DataOptions,
    train_data: str | None,
    tasks: str | None,
    method: str,
    scoring: ScoringSettings,
    pruning: Recipe,
    dev: list[str] | None,
    rewind_to: str | None,
    repair: bool,
    training: TrainingSettings,
    teacher: list[str] | None,
    aligned: bool,
    loading: ModelOptions,
) -> Plan:
    """What options ask for, without pack and benchmark."""
    from sparsecse.stages import Plan

    pairs = replace(reading, name=data)
    return Plan(
        model=named_model(run, model, loading),
        data=pairs,
        train_data=named_data(train_data, reading) or pairs,
        recipe=pruning,
        dev=named_dev(dev, reading),
        teachers=[ModelOptions(name) for name in teacher or ()],
        tasks=tasks or ("demo" if data == "demo" else "sts"),
        training=training if repair else None,
        method=method,
        scoring=scoring,
        rewind_to=rewind_to,
        aligned=aligned,
        packs=False,
        bench_sentences=0,
    )


def _near(path: Path) -> Path:
    """A path as seen from the working directory, where it lies in it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
