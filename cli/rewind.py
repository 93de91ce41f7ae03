"""`sparsecse rewind`: give what is left the weights of an earlier checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from sparsecse.cli import options
from sparsecse.cli.output import note, show
from sparsecse.cli.session import DEFAULT_WORKDIR, session

To = Annotated[
    str,
    typer.Option("--to", help="A folder, a hub id, or `step-N`: a step that `sparsecse train` kept."),
]


def rewind(to: To, workdir: options.Workdir = DEFAULT_WORKDIR, json: options.Json = False) -> None:
    """Make the same cut in an earlier checkpoint: the kept weights take its values."""
    with session(workdir) as run:
        from sparsecse import stages

        record, reused = stages.rewind(run, to)
        if reused:
            note(f"{run.path} is already rewound to {to}.")
        summary = f"Rewound to {to}: {record.info['parameters']:,} parameters"
        show(json, asdict(record), summary, written=run.folder("rewind"))
        note(f"Wrote {run.folder('rewind')}; next: sparsecse finetune --data FILE")
