"""Stage `layers`: the search for whole layers to remove, recorded in the run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparsecse.evaluation.dev import Dev, DevSet, dev_fingerprint
from sparsecse.files import texts_hash, write_json
from sparsecse.progress import Progress, silent
from sparsecse.pruning.costs import CostModel
from sparsecse.pruning.ensemble import Ensemble
from sparsecse.pruning.layers import best_layers, search_layers
from sparsecse.pruning.recipe import Recipe
from sparsecse.stages.models import load_dense
from sparsecse.stages.score import SCORES_FILE, load_scores
from sparsecse.workdir import Record, Workdir

TRIED_FILE = "tried.json"


def choose_layers(
    workdir: Workdir,
    cut_: Recipe,
    dev: Sequence[DevSet],
    models: Mapping[str, CostModel] | None = None,
    inputs: Mapping[str, str] | None = None,
    *,
    text: Sequence[str] = (),
    progress: Progress = silent,
) -> tuple[Record, bool]:
    """Stage `layers`: the record's info holds `layers`, those that stay, and all that were `tried`.

    Args:
        dev: what the choice is made on.
        text: what reconstructions are fitted on; see `ensemble.Ensemble`.
        models, inputs: the cost models that the budget needs, and the hashes of what they were read from.
    """
    scores = load_scores(workdir)
    inputs = {
        f"score/{SCORES_FILE}": workdir.output_hash("score", SCORES_FILE),
        "dev": dev_fingerprint(dev),
        **(inputs or {}),
    }
    settings = {**cut_.budget_settings, **cut_.budget, "reconstruct": cut_.reconstruct}
    settings["tolerance"] = cut_.tolerance
    if text:
        inputs["text"] = texts_hash(text)

    def work(folder: Path) -> Mapping[str, Any]:
        dense = load_dense(workdir)
        ensemble = Ensemble(dense, scores, Dev(dev, dense, cut_.tolerance), text)
        tried = search_layers(ensemble, cut_, models, progress)
        rows = [{**asdict(one), "layers": list(one.layers)} for one in tried]
        write_json(folder / TRIED_FILE, rows)
        return {"layers": list(best_layers(tried, ensemble.dev)), "tried": rows}

    return workdir.run_stage("layers", inputs, settings, work)
