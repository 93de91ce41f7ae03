"""`sparsecse push`: publish a packed folder on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsecse.cli import options
from sparsecse.cli.output import note, show
from sparsecse.cli.session import DEFAULT_WORKDIR
from sparsecse.workdir import Workdir

RepoId = Annotated[str, typer.Argument(help="Repository to upload to: user/name.")]
Folder = Annotated[
    Path | None, typer.Option("--folder", help="Packed folder; by default the one that `pack` last wrote.")
]
Private = Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")]
Upload = Annotated[bool, typer.Option("--upload", help="Upload; without it only what would be uploaded is shown.")]


def push(
    repo_id: RepoId,
    folder: Folder = None,
    private: Private = False,
    upload: Upload = False,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Show what would be uploaded to the hub and, with --upload, do it."""
    from sparsecse.cli.tables import file_table
    from sparsecse.packing import publication
    from sparsecse.packing import push as send

    source = folder or Path(Workdir(workdir).need("pack").info["path"])
    facts = publication(source)
    data = {"repo_id": repo_id, "folder": str(source), "uploaded": upload, **facts}
    if upload:
        data["commit"] = send(source, repo_id, private=private)
    show(json, data, file_table(facts, f"{source} -> {repo_id}"))
    note(f"Uploaded: {data['commit']}" if upload else "Nothing was uploaded; add --upload to do it.")
