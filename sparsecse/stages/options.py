"""What stages are told about models and data, loaded with one sentence on failure."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsecse.encoders import Encoder, load_encoder, named_source
from sparsecse.errors import InputError
from sparsecse.workdir import Workdir


@dataclass(frozen=True)
class ModelOptions:
    """A model by name, and what its folder does not say; see `encoders.load_encoder`."""

    name: str
    pooling: str | None = None
    normalize: bool | None = None
    max_length: int | None = None
    prompt: str | None = None

    def load(self) -> Encoder:
        return load_encoder(
            resolve_model(self.name),
            pooling=self.pooling,
            normalize=self.normalize,
            max_length=self.max_length,
            prompt=self.prompt,
        )

    def settings(self) -> dict[str, Any]:
        return asdict(self)


def resolve_model(name: str) -> str:
    """A model name as a folder or hub id: as `encoders.named_source`, and a run directory is its newest model."""
    path = Path(name)
    if path.is_dir() and Workdir.is_one(path):
        stage, _ = Workdir(path).newest_model()
        return str(path / stage / "model")
    return named_source(name)


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
    return str(folder)
