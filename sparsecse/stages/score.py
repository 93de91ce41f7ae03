"""Stage `score`: a model and graded pairs, or sentences alone -> scores.safetensors."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from sparsecse.datasets import DropoutViews, PairSet
from sparsecse.encoders import Encoder, fingerprint
from sparsecse.errors import InputError
from sparsecse.progress import Progress, silent
from sparsecse.scoring import TABLE_FILE, Objective, Scores, ScoringSettings, resolved_precision, scoring_method
from sparsecse.scoring.data import scored_set
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.stages.models import load_named
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
    """Score every head and neuron of the model; see `scoring.METHODS` for the methods, `scored_set` for the data.

    The record's settings hold what the method uses of `scoring`, and what dropout positives depend on; of the
    precision they hold the one that was asked for, and the record's info the one it came to.

    Raises:
        InputError: an unknown method, or the run directory holds the scores of another model.
    """
    chosen = scoring_method(method)
    scoring = scoring or ScoringSettings()
    encoder = load_named(model)
    model_hash = fingerprint(encoder)
    before = workdir.record("score")
    if before is not None and before.inputs["model"] != model_hash:
        raise InputError(
            f"{workdir.path} belongs to another model ({before.settings['model']['name']}); "
            f"give a `workdir` of its own to {model.name}, or delete {workdir.path} to start over."
        )
    pairs = scored_set(data, scoring)
    views = isinstance(pairs, DropoutViews)
    inputs = {"model": model_hash, "data": pairs.fingerprint()}
    settings = score_settings(model, data, pairs, method, scoring)

    def work(folder: Path) -> Mapping[str, Any]:
        info: dict[str, Any] = {"data": pairs.source, "sentences" if views else "pairs": len(pairs)}
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


def score_settings(
    model: ModelOptions, data: DataOptions, pairs: PairSet, method: str, scoring: ScoringSettings
) -> dict[str, Any]:
    """What the scores of `pairs`, the set that `data` names, depend on; two plans with the same share them."""
    settings: dict[str, Any] = {"model": model.settings(), "method": method, "data": data.settings()}
    uses = scoring_method(method).uses
    settings |= {name: value for name, value in asdict(scoring).items() if name in uses}
    if isinstance(pairs, DropoutViews):
        # The batch size too, as it decides the masks.
        own = {"positives": "dropout", "dropout": scoring.dropout, "limit": scoring.limit}
        settings |= own | {"seed": scoring.seed, "batch_size": scoring.batch_size}
    return settings


def load_scores(workdir: Workdir) -> Scores:
    """The scores of a run directory; damaged ones are refused."""
    workdir.check("score", SCORES_FILE)
    return Scores.load(workdir.folder("score") / SCORES_FILE)


def _recorded(workdir: Workdir) -> ScoringSettings:
    settings = workdir.need("score").settings
    known = {field.name for field in fields(ScoringSettings)}
    values = {name: value for name, value in settings.items() if name in known}
    if "objective" in values:
        values["objective"] = Objective(**values["objective"])
    return ScoringSettings(**values)


def score_set(workdir: Workdir) -> PairSet:
    """The set that the scores were taken on, read again; one that was changed since is refused."""
    return check_scored(workdir, scored_set(score_data(workdir), _recorded(workdir)))


def check_scored(workdir: Workdir, pairs: PairSet) -> PairSet:
    """The set, or `InputError` where it is not the one that the scores were taken on."""
    if pairs.fingerprint() != workdir.need("score").inputs["data"]:
        raise InputError(
            f"{pairs.source} is not what {workdir.path} was scored on any more; restore it, or run `sparsecse score` "
            f"again."
        )
    return pairs


def score_again(workdir: Workdir, encoder: Encoder, pairs: PairSet) -> Scores:
    """Scores of another encoder (a cut of the scored one) by the recorded method and settings."""
    method = workdir.need("score").settings["method"]
    return scoring_method(method).score(encoder, pairs, _recorded(workdir))


def score_data(workdir: Workdir) -> DataOptions:
    """The data that the scores were taken on."""
    settings = workdir.need("score").settings["data"]
    columns = settings["columns"]
    return DataOptions(**{**settings, "columns": tuple(columns) if columns else None})
