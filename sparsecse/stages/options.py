"""Models by the names that a run directory gives them."""

from __future__ import annotations

import re
from pathlib import Path

from sparsecse.encoders import named_source
from sparsecse.errors import InputError
from sparsecse.packing import check_pack, model_name
from sparsecse.workdir import Workdir, check_recorded

DEMO_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
"""What the model `demo` is called on the hub."""


def check_undamaged(folder: Path) -> None:
    """Raise `InputError` where what a stage left, or `pack` wrote, was damaged since; other folders are not checked."""
    check_recorded(folder)
    check_pack(folder)


def resolve_model(name: str) -> str:
    """A model name as a folder or hub id: as `encoders.named_source`, and a run directory is its newest model.

    Raises:
        InputError: a stage left it or `pack` wrote it, and it was damaged since.
    """
    path = Path(name)
    if not path.is_dir():
        return named_source(name)
    if Workdir.is_one(path):
        stage, _ = Workdir(path).newest_model()
        path = path / stage / "model"
    check_undamaged(path)
    return str(path)


def public_name(name: str) -> str:
    """What a model is called for others: a hub id, or the own name of a folder."""
    return DEMO_MODEL if name == "demo" and not Path(name).exists() else model_name(name)


def kept_step(workdir: Workdir, name: str) -> str:
    """A checkpoint name: `step-250` or `250` is a step kept by `train`, anything else a folder or hub id."""
    match = re.fullmatch(r"(?:step-)?(\d+)", name)
    if match is None or Path(name).exists():
        return name
    steps = workdir.folder("train") / "steps"
    folder = steps / f"step-{int(match[1]):06d}"
    if not folder.is_dir():
        found = ", ".join(sorted(path.name for path in steps.glob("step-*"))) or "none"
        raise InputError(f"{folder} does not exist (kept steps: {found}); keep it with `sparsecse train --keep-steps`.")
    check_recorded(folder)
    return str(folder)
