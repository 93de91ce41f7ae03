"""Every option that more than one command takes, defined once so that it has one name and one meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsecse.cli.help import METHODS_HELP

_DATA = "data"
_RUN = "run directory and output"

Model = Annotated[str, typer.Argument(help="Folder, hub id, run directory, or `demo` (the demo extra's MiniLM).")]
Workdir = Annotated[
    Path, typer.Option("--workdir", envvar="SPARSECSE_WORKDIR", help="Run directory.", rich_help_panel=_RUN)
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON and nothing else on standard output.", rich_help_panel=_RUN)
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        help="No progress, notes or warnings: only errors, and the path of what was written, or the figures where "
        "those are the result.",
        rich_help_panel=_RUN,
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="Graded pairs: stsb, sickr, sts12 ... sts16, demo, or a TSV/CSV/JSONL/Parquet file.",
        rich_help_panel=_DATA,
    ),
]
ScoreData = Annotated[
    str,
    typer.Option(
        "--data",
        help="What to score on. Graded pairs: stsb, sickr, sts12 ... sts16, demo, a TSV/CSV/JSONL/Parquet file, or a "
        "Hugging Face dataset (OWNER/NAME, OWNER/NAME:CONFIG, with @SPLIT if it has several); or sentences alone: text "
        "(also .gz), or a table with the column sentence.",
        rich_help_panel=_DATA,
    ),
]
TrainData = Annotated[
    str | None,
    typer.Option(
        "--train-data",
        help="Sentences of the repair, on which a reconstruction is fitted too (text, .gz, a table, a pair set, a "
        "Hugging Face dataset, demo); run takes those of --data by default.",
        rich_help_panel=_DATA,
    ),
]
Dev = Annotated[
    list[str] | None,
    typer.Option(
        "--dev",
        help="What choices are made on, several with commas: graded pairs (stsb, or a table), a folder in BEIR's "
        "layout (small: at most 2000 of its documents are drawn), text (agreement with the dense model), or "
        "agreement: that on held-out training sentences. By default the graded pairs of the scores and the dev sets of "
        "STS-B and SICK-R in their --data-dir, and for the repair's weights agreement too; train has none.",
        rich_help_panel=_DATA,
    ),
]
TimedData = Annotated[
    str,
    typer.Option("--data", help="Sentences that are timed: demo, text, a table, or a pair set.", rich_help_panel=_DATA),
]
Count = Annotated[int, typer.Option("--sentences", min=1, help="How many of them are timed.", rich_help_panel=_DATA)]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Sentences of average length per forward pass.")]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="CPU threads; by default what torch takes, within a container's quota.",
        rich_help_panel=_RUN,
    ),
]
Processes = Annotated[
    int,
    typer.Option(
        "--nproc",
        min=1,
        help="Processes of this machine that share the passes over data and the threads.",
        rich_help_panel=_RUN,
    ),
]
Tasks = Annotated[
    str,
    typer.Option(
        "--tasks",
        help="Tasks to evaluate: a comma list (mr,subj), a group (sts, transfer, retrieval, demo, all), or paths of "
        "your own data: a table of graded pairs, a table of labelled sentences, a folder with train.* and test.* of "
        "them, a folder in BEIR's layout, a table of query, positive, negative to rerank.",
        rich_help_panel=_DATA,
    ),
]

Dtype = Annotated[
    str,
    typer.Option("--dtype", help="How weights are stored: float32, float16, bfloat16, or int8 (floats at load)."),
]

# pruning
CutModel = Annotated[str, typer.Argument(help="Model to cut where nothing was scored, for --layers and --vocab alone.")]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        help=METHODS_HELP,
        rich_help_panel="scoring",
    ),
]
# training
_TRAIN = "training"
Aligned = Annotated[
    bool,
    typer.Option(
        "--aligned",
        help="The pruned model is for queries to an index of the dense model's vectors: also search that in the "
        "retrieval tasks.",
    ),
]
Teacher = Annotated[
    list[str] | None,
    typer.Option(
        "--teacher",
        help="Model to distil from; given more than once, their mean. By default `dense`, the dense model (train has "
        "none); `cuts` is its mean with lighter cuts of it, as many as are best on dev.",
        rich_help_panel=_TRAIN,
    ),
]
