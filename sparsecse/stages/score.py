"""Stage `score`: a model and graded pairs -> scores.safetensors."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sparsecse.encoders import fingerprint
from sparsecse.errors import InputError
from sparsecse.scoring import TABLE_FILE, Scores, ScoringSettings, resolved_precision, scoring_method
from sparsecse.stages.options import DataOptions, ModelOptions, Progress, silent
from sparsecse.workdir import Record, Workdir

SCORES_FILE = "scores.safetensors"


def score(
    workdir: Workdir,
    model: ModelOptions,
    data: DataOptions,
    *,
    method: str = "taylor",
    scoring: ScoringSettings | None = None,
    progress: Progress = silent,
) -> tuple[Record, bool]:
    """Score every head and neuron of the model; see `scoring.METHODS` for the methods.

    The record's settings hold what the method uses of `scoring`; of the precision they hold the one that was asked for,
    and the record's info the one it came to.

    Raises:
        InputError: an unknown method, or the run directory holds the scores of another model.
    """
    chosen = scoring_method(method)
    scoring = scoring or ScoringSettings()
    encoder = model.load()
    model_hash = fingerprint(encoder)
    before = workdir.record("score")
    if before is not None and before.inputs["model"] != model_hash:
        raise InputError(
            f"{workdir.path} belongs to another model ({before.settings['model']['name']}); "
            f"give a --workdir of its own to {model.name}, or delete {workdir.path} to start over."
        )
    pairs = data.pairs()
    inputs = {"model": model_hash, "data": pairs.fingerprint()}
    settings: dict[str, Any] = {"model": model.settings(), "method": method, "data": data.settings()}
    settings |= {name: value for name, value in asdict(scoring).items() if name in chosen.uses}

    def work(folder: Path) -> Mapping[str, Any]:
        info: dict[str, Any] = {"data": pairs.source, "pairs": len(pairs)}
        own = scoring
        if "precision" in chosen.uses:
            info["precision"] = resolved_precision(encoder, scoring.precision)
            own = replace(own, precision=info["precision"])
        if chosen.resumes:
            own = replace(own, partial=workdir.partial("score", inputs, settings))
        scores = chosen.score(encoder, pairs, own, progress("Scoring"))
        scores.save(folder / SCORES_FILE, {"method": method, "model": model.name})
        if own.partial is not None:
            # Copied, not moved: a kill before this stage has its name would lose the table for the next attempt.
            shutil.copy(own.partial / TABLE_FILE, folder / TABLE_FILE)
        return {"sizes": scores.sizes(), **scores.values, **info}

    record, reused = workdir.run_stage("score", inputs, settings, work)
    if chosen.resumes:  # another method's hours are not this one's to drop
        workdir.drop_partials("score")
    return record, reused


def load_scores(workdir: Workdir) -> Scores:
    """The scores of a run directory."""
    workdir.need("score")
    return Scores.load(workdir.folder("score") / SCORES_FILE)


def score_data(workdir: Workdir) -> DataOptions:
    """The graded pairs that the scores were taken on."""
    settings = workdir.need("score").settings["data"]
    columns = settings["columns"]
    return DataOptions(**{**settings, "columns": tuple(columns) if columns else None})
