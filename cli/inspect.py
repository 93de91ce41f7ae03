"""`sparsecse inspect`: what a model folder or a run directory holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sparsecse.cli import options
from sparsecse.cli.groups import Only, takes
from sparsecse.cli.output import show
from sparsecse.cli.session import DEFAULT_WORKDIR
from sparsecse.sources import ModelOptions
from sparsecse.workdir import Workdir

What = Annotated[
    str, typer.Argument(help="A model (folder, hub id, demo) or a run directory; by default the run directory.")
]


@takes(loading=Only(ModelOptions(), ("pooling", "truncate_dim")))
def inspect(
    what: What = "",
    *,
    loading: ModelOptions,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Show a model's family, sizes, pooling and bytes, or a run directory's stages and their state.

    Files of a stage that were damaged since are an error, after the table.
    """
    from sparsecse import stages
    from sparsecse.cli.tables import layer_table, run_table, summary_table

    folder = Path(what) if what else workdir
    if not what or (folder.is_dir() and Workdir.is_one(folder)):
        run = Workdir(folder)
        facts = stages.inspect_run(run)
        show(json, facts, run_table(facts))
        for stage in facts["stages"]:
            run.check(stage)
        return
    facts = stages.inspect_model(replace(loading, name=what))
    show(json, facts, summary_table(facts), layer_table(facts))
