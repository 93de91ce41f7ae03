"""`sparsecse pack`: the folder to publish or serve."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sparsecse.cli import options
from sparsecse.cli.groups import Only, takes
from sparsecse.cli.output import note, show
from sparsecse.cli.session import DEFAULT_WORKDIR, session
from sparsecse.sources import ModelOptions

Out = Annotated[Path | None, typer.Option("--out", help="Folder to write; by default `packed` in the run directory.")]


@takes(loading=Only(ModelOptions(), ("truncate_dim",)))
def pack(
    out: Out = None,
    dtype: options.Dtype = "float32",
    *,
    loading: ModelOptions,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Write the newest of finetune, rewind and prune as a folder that transformers and sentence-transformers load."""
    with session(workdir) as run:
        from sparsecse import stages

        _, passed_over = run.newest_model()
        for reason in passed_over:
            note(f"Note: {reason}; it is left out.")
        record, reused = stages.pack(run, out, dtype=dtype, truncate_dim=loading.truncate_dim)
        info = record.info
        if reused:
            note(f"{info['path']} is up to date.")
        show(
            json,
            asdict(record),
            f"Packed the '{info['stage']}' model into {info['path']} ({info['bytes']:,} bytes)",
            written=info["path"],
        )
        arguments = f'"{info["path"]}"' + ("" if info["format"] != "sparsecse" else ", trust_remote_code=True")
        note(f"SentenceTransformer({arguments}) and AutoModel.from_pretrained({arguments}) load it")
