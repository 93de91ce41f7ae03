"""`sparsecse report`: what a run came to, as one HTML file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sparsecse.cli import options
from sparsecse.cli.output import note, note_plots, show
from sparsecse.cli.session import DEFAULT_WORKDIR
from sparsecse.workdir import Workdir

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="HTML file to write; by default `report.html` in the run directory.",
        rich_help_panel="run directory and output",
    ),
]
Png = Annotated[
    bool,
    typer.Option(
        "--png/--no-png",
        help="Also write each figure as a PNG file beside it, where matplotlib is installed (the extra `plot`).",
        rich_help_panel="run directory and output",
    ),
]
StudyFile = Annotated[
    Path | None,
    typer.Option("--study", help="Results of `sparsecse study sparsity` on the same model: its JSON file or folder."),
]


def report(
    study: StudyFile = None,
    png: Png = True,
    out: Out = None,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Write what a run came to as one HTML file: quality before and after, what stays, speed, size, how to repeat it.

    Nothing is measured: it shows what the stages of the run directory recorded, and says how to measure the rest.
    """
    from sparsecse import stages
    from sparsecse.cli.tables import change_table
    from sparsecse.studies.sparsity import report_curve

    run = Workdir(workdir)
    target = stages.report_path(run, out)
    stages.check_report(target)
    curves = [] if study is None else [report_curve(study, stages.dense_hash(run))]
    found = stages.gather_report(run, curves)
    written = stages.write_report(found, target, png=png)
    for line in found.warnings:
        note(line)
    if png:
        note_plots()
    summary = found.summary()
    data = {
        "report": str(target),
        "figures": [str(path) for path in written[1:]],
        "warnings": list(found.warnings),
        "summary": [{**asdict(row), "difference": row.difference} for row in summary],
        "not_measured": [what for what, _ in found.missing],
    }
    show(json, data, change_table(found.model, summary), written=target)
    for path in written:
        note(f"Wrote {path}")
