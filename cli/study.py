"""`sparsecse study`: curves, controls and rivals, measured cell by cell; goes on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsecse.cli import options
from sparsecse.cli.output import note, progress, show
from sparsecse.cli.run import RunTasks
from sparsecse.cli.session import DEFAULT_WORKDIR, data_options, model_options, set_threads
from sparsecse.cli.training import TrainingOptions, takes_training_options
from sparsecse.errors import InputError
from sparsecse.workdir import Workdir

_STUDY = "study"
Name = Annotated[
    str,
    typer.Argument(
        help="sparsity, scorers, oracle, lambda, rewind, objectives, frontier, budgets, data or tasks.",
        metavar="NAME",
        show_default=False,
    ),
]
TrainData = Annotated[
    str | None,
    typer.Option(
        "--train-data",
        help="Sentences for the repair, or the training, of each cell; without them nothing is repaired. For data: to "
        "score on.",
        rich_help_panel="data",
    ),
]
Sparsities = Annotated[
    str | None,
    typer.Option("--sparsities", help="Comma-separated fractions, in place of the study's.", rich_help_panel=_STUDY),
]
Methods = Annotated[
    str | None,
    typer.Option("--methods", help="Comma-separated scoring methods, for scorers and oracle.", rich_help_panel=_STUDY),
]
Seeds = Annotated[
    int | None,
    typer.Option(
        "--seeds",
        min=1,
        help="How many seeds, for sparsity, scorers, rewind and data.",
        rich_help_panel=_STUDY,
    ),
]
Out = Annotated[
    Path, typer.Option("--out", help="Folder for NAME.json, NAME.md and NAME.png.", rich_help_panel="run directory")
]


def _fractions(text: str | None) -> tuple[float, ...] | None:
    parts = options.split_list(text)
    if parts is None:
        return None
    try:
        values = tuple(float(part) for part in parts)
    except ValueError:
        values = ()
    if not values or not all(0 < value < 1 for value in values):
        raise InputError(f"--sparsities {text} is not a list of fractions between 0 and 1 such as 0.1,0.2.")
    return values


@takes_training_options(steps=300, learning_rate=1e-4)
def study(
    name: Name,
    model: options.Model,
    *,
    data: options.Data = "stsb",
    split: options.Split = None,
    data_dir: options.DataDir = None,
    columns: options.Columns = None,
    tasks: RunTasks = None,
    train_data: TrainData = None,
    sparsities: Sparsities = None,
    methods: Methods = None,
    seeds: Seeds = None,
    training: TrainingOptions,
    seed: options.Seed = 0,
    pooling: options.Pooling = None,
    normalize: options.Normalize = None,
    max_length: options.MaxLength = None,
    prompt: options.Prompt = None,
    threads: options.Threads = None,
    out: Out = Path("sparsecse-study"),
    json: options.Json = False,
) -> None:
    """Measure a question about pruning on a model, and write the numbers, a plot and a paragraph made from them.

    sparsity: quality, alignment, uniformity and speed from 1 to 99 %. scorers: the paper's score against its rivals and
    the controls. oracle: every score against the true effect of removals. lambda: alignment against uniformity.
    rewind: the paper's whole loop, rewound to each kept step, over seeds. objectives: other contrastive families.
    frontier: quality against measured speed, against dropped layers. budgets: how heads are weighed against neurons, at
    equal multiply-adds. data: whether scores on other sets, and on sentences without gold scores, agree. tasks: each
    task's own best sparsity, and which of its traits go with it.

    Test tasks are measured, never used for a choice. Interrupted, the same command goes on.
    """
    set_threads(threads)
    from sparsecse.cli.tables import rows_table
    from sparsecse.datasets import load_sentences
    from sparsecse.evaluation import load_tasks
    from sparsecse.studies import STUDIES, Setup, StudySettings, can_draw, run_study, write_report

    if name not in STUDIES:
        raise InputError(f"There is no study '{name}'; the studies are {', '.join(STUDIES)}.")
    chosen = STUDIES[name]
    if not can_draw():
        note('No plot will be drawn: matplotlib is not installed; `pip install "sparsecse[plot]"` brings it.')
    source = data_options(data, split, data_dir, columns)
    found = load_tasks(tasks or ("demo-test" if data == "demo" else "sts"), data_dir=data_dir)
    for task, reason in found.missing.items():
        note(f"Left out {task}: {reason}")
    sentences = load_sentences(train_data, data_dir=data_dir) if train_data else []
    setup = Setup(
        name=model,
        dense=model_options(Workdir(DEFAULT_WORKDIR), model, pooling, normalize, max_length, prompt).load(),
        score_pairs=source.pairs(),
        tasks=found.pairs,
        sentences=sentences,
        data_dir=data_dir,
        cosines=out / "cosines" / name,
        settings=StudySettings(
            sparsities=_fractions(sparsities),
            methods=options.split_list(methods),
            seeds=seeds,
            training=training.settings(seed) if train_data else None,
        ),
        progress=progress,
    )

    def report(key: str, done: int, total: int) -> None:
        note(f"{name}: {done} of {total} measured{f', now {key}' if key else ''}")

    content = run_study(chosen, setup, out, report=report)
    written = write_report(chosen, content, out)
    header, rows = chosen.table(content["results"])
    show(json, content, rows_table(chosen.title, header, rows), chosen.paragraph(content["results"]))
    note(f"Wrote {', '.join(map(str, [out / f'{name}.json', *written]))}")
