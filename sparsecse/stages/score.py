"""Stage `score`: a model and graded pairs -> scores.safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparsecse.encoders import fingerprint
from sparsecse.errors import InputError
from sparsecse.scoring import (
    METHODS,
    Objective,
    Scores,
    check_precision,
    contributions,
    magnitude,
    random,
    resolved_precision,
)
from sparsecse.stages.options import DataOptions, ModelOptions, Progress, silent
from sparsecse.workdir import Record, Workdir

SCORES_FILE = "scores.safetensors"


def score(
    workdir: Workdir,
    model: ModelOptions,
    data: DataOptions,
    *,
    method: str = "taylor",
    objective: Objective | None = None,
    seed: int = 0,
    batch_size: int = 64,
    precision: str = "auto",
    progress: Progress = silent,
) -> tuple[Record, bool]:
    """Score every head and neuron of the model; see `scoring` for the methods.

    The record's settings hold the precision that was asked for, its info the one it came to.

    Raises:
        InputError: the run directory holds the scores of another model.
    """
    if method not in METHODS:
        raise InputError(f"--method '{method}' is unknown; choose one of {', '.join(METHODS)}.")
    check_precision(precision)
    objective = objective or Objective()
    encoder = model.load()
    model_hash = fingerprint(encoder)
    before = workdir.record("score")
    if before is not None and before.inputs["model"] != model_hash:
        raise InputError(
            f"{workdir.path} belongs to another model ({before.settings['model']['name']}); "
            f"give a --workdir of its own to {model.name}, or delete {workdir.path} to start over."
        )
    settings: dict[str, Any] = {"model": model.settings(), "method": method}
    inputs = {"model": model_hash}
    pairs = data.pairs()
    inputs["data"] = pairs.fingerprint()
    settings["data"] = data.settings()
    if method == "taylor":
        settings["objective"] = asdict(objective)
        settings["precision"] = precision
    if method == "random":
        settings["seed"] = seed

    def work(folder: Path) -> Mapping[str, Any]:
        info: dict[str, Any] = {"data": pairs.source, "pairs": len(pairs)}
        if method == "taylor":
            info["precision"] = resolved_precision(encoder, precision)
            scores = contributions(
                encoder,
                pairs,
                objective,
                batch_size=batch_size,
                precision=info["precision"],
                progress=progress("Scoring"),
            )
        else:
            scores = magnitude(encoder) if method == "magnitude" else random(encoder, seed)
        scores.save(folder / SCORES_FILE, {"method": method, "model": model.name})
        return {"sizes": scores.sizes(), **scores.values, **info}

    return workdir.run_stage("score", inputs, settings, work)


def load_scores(workdir: Workdir) -> Scores:
    """The scores of a run directory."""
    workdir.need("score")
    return Scores.load(workdir.folder("score") / SCORES_FILE)


def score_data(workdir: Workdir) -> DataOptions:
    """The graded pairs that the scores were taken on."""
    settings = workdir.need("score").settings["data"]
    columns = settings["columns"]
    return DataOptions(**{**settings, "columns": tuple(columns) if columns else None})
