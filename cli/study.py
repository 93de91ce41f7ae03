"""`sparsecse study`: curves, controls and rivals, measured cell by cell; goes on where it stopped."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sparsecse.cli import options
from sparsecse.cli.groups import takes
from sparsecse.cli.output import note, note_plots, progress, show
from sparsecse.cli.session import DEFAULT_WORKDIR, named_model, set_threads
from sparsecse.errors import InputError, meant
from sparsecse.settings import split_list
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.studies.registry import STUDIES, StudySpec
from sparsecse.training.settings import TrainingSettings
from sparsecse.workdir import Workdir

TrainData = Annotated[
    str | None,
    typer.Option(
        "--train-data",
        help="Sentences for the repair, or the training, of each cell; without them nothing is repaired.",
        rich_help_panel="data",
    ),
]
StudyTasks = Annotated[
    str | None,
    typer.Option(
        "--tasks",
        help="Similarity tasks to measure; by default demo-test for --data demo, else sts.",
        rich_help_panel="data",
    ),
]
Sparsities = Annotated[
    str | None,
    typer.Option("--sparsities", help="Comma-separated fractions, in place of the study's.", rich_help_panel="study"),
]
Methods = Annotated[
    str | None,
    typer.Option("--methods", help="Comma-separated scoring methods.", rich_help_panel="study"),
]
Seeds = Annotated[int | None, typer.Option("--seeds", min=1, help="How many seeds.", rich_help_panel="study")]
Others = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        help="Another model on the plot of frontier, as it is: folder, hub id or run directory; may be repeated. What "
        "only sentence-transformers loads, as static embeddings, is measured through it.",
        rich_help_panel="study",
    ),
]
Out = Annotated[
    Path, typer.Option("--out", help="Folder for NAME.json, NAME.md and NAME.png.", rich_help_panel="run directory")
]


def _fractions(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    parts = split_list(text)
    try:
        values = tuple(float(part) for part in parts)
    except ValueError:
        values = ()
    if not values or not all(0 < value < 1 for value in values):
        raise InputError(f"--sparsities {text} is not a list of fractions between 0 and 1 such as 0.1,0.2.")
    return values


def study_command(studies: Mapping[str, StudySpec]) -> Callable[..., None]:
    """The command that measures one of these studies."""

    @takes(reading=DataOptions(), training=TrainingSettings(max_steps=300), loading=ModelOptions())
    def study(
        name: Annotated[str, typer.Argument(help=f"{', '.join(studies)}.", metavar="NAME", show_default=False)],
        model: options.Model,
        *,
        data: options.Data = "stsb",
        reading: DataOptions,
        tasks: StudyTasks = None,
        train_data: TrainData = None,
        sparsities: Sparsities = None,
        methods: Methods = None,
        seeds: Seeds = None,
        others: Others = None,
        training: TrainingSettings,
        loading: ModelOptions,
        threads: options.Threads = None,
        out: Out = Path("sparsecse-study"),
        json: options.Json = False,
    ) -> None:
        set_threads(threads)
        from sparsecse.cli.tables import rows_table
        from sparsecse.datasets import load_sentences
        from sparsecse.evaluation import load_tasks
        from sparsecse.packing.folder import model_name
        from sparsecse.stages import resolve_model
        from sparsecse.studies.others import Other
        from sparsecse.studies.setup import Setup, StudySettings
        from sparsecse.studies.study import run_study, write_report

        if name not in studies:
            raise InputError(f"There is no study '{name}'; the studies are {', '.join(studies)}.{meant(name, studies)}")
        if others and name != "frontier":
            raise InputError(f"--with is for the study frontier; leave it out of {name}.")
        chosen = studies[name].load()
        note_plots()
        source = replace(reading, name=data)
        found = load_tasks(tasks or ("demo-test" if data == "demo" else "sts"), data_dir=reading.data_dir)
        for task, reason in found.missing.items():
            note(f"Left out {task}: {reason}")
        if not found.pairs:
            raise InputError("Studies measure similarity tasks; name at least one in `tasks`.")
        if found.retrieval and name != "frontier":
            note(f"Left out {', '.join(found.retrieval)}: retrieval sets are measured by the study frontier alone")
        sentences = load_sentences(train_data, data_dir=reading.data_dir) if train_data else []
        setup = Setup(
            name=model,
            dense=named_model(Workdir(DEFAULT_WORKDIR), model, loading).load(),
            score_pairs=source.pairs(),
            tasks=found.pairs,
            sentences=sentences,
            data_dir=reading.data_dir,
            cosines=out / "cosines" / name,
            settings=StudySettings(
                sparsities=_fractions(sparsities),
                methods=split_list(methods) if methods else None,
                seeds=seeds,
                training=training if train_data else None,
                others=tuple(Other(model_name(other), resolve_model(other)) for other in others or ()),
            ),
            retrieval=found.retrieval,
            progress=progress,
        )

        content = run_study(name, chosen, setup, out, progress=progress(f"Measuring {name}"))
        written = write_report(chosen, content, out)
        header, rows = chosen.table(content["results"])
        table, paragraph = rows_table(chosen.title, header, rows), chosen.paragraph(content["results"])
        show(json, content, table, paragraph, written=out / f"{name}.json")
        note(f"Wrote {', '.join(map(str, [out / f'{name}.json', *written]))}")

    questions = " ".join(f"{name}: {spec.summary}." for name, spec in studies.items())
    study.__doc__ = f"""Measure a question about pruning on a model: numbers, a plot and a paragraph made from them.

    {questions}

    Test tasks are measured, never used for a choice. Interrupted, the same command goes on.
    """
    return study


study = study_command(STUDIES)
