"""`sparsecse inspect`: what a model folder or a run directory holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsecse.cli import options
from sparsecse.cli.output import show
from sparsecse.workdir import Workdir

What = Annotated[str, typer.Argument(help="A model (folder, hub id, demo) or a run directory.")]


def inspect(
    what: What = "sparsecse-run",
    pooling: options.Pooling = None,
    json: options.Json = False,
) -> None:
    """Show a model's family, sizes, pooling and bytes, or a run directory's stages and their state."""
    from sparsecse import stages
    from sparsecse.reports import layer_table, run_table, summary_table

    if Path(what).is_dir() and Workdir.is_one(Path(what)):
        facts = stages.inspect_run(Workdir(what))
        show(json, facts, run_table(facts))
        return
    facts = stages.inspect_model(stages.ModelOptions(what, pooling))
    show(json, facts, summary_table(facts), layer_table(facts))
