"""Stage `choose`: how much may leave, read from a curve on dev."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsecse.evaluation.dev import Dev, dev_fingerprint
from sparsecse.files import write_json
from sparsecse.progress import Progress, silent
from sparsecse.pruning.ensemble import Ensemble, choose_sparsity, nothing_leaves
from sparsecse.sources import DevOptions
from sparsecse.stages.dev import dev_sets
from sparsecse.stages.models import load_dense
from sparsecse.stages.score import SCORES_FILE, load_scores
from sparsecse.workdir import Record, Workdir


def choose(
    workdir: Workdir, tolerance: float, dev: DevOptions | None = None, *, progress: Progress = silent
) -> tuple[Record, bool]:
    """Stage `choose`: the largest sparsity at which no labelled kind falls by more than `tolerance`, without repair.

    dev: see `dev.dev_sets`. The record's info holds `sparsity`, `dev` (the names of the sets), the `curve` that it was
    read from, and a `warning` where nothing leaves.
    """
    scores = load_scores(workdir)
    sets = dev_sets(workdir, dev)
    inputs = {
        f"score/{SCORES_FILE}": workdir.output_hash("score", SCORES_FILE),
        "dev": dev_fingerprint(sets),
    }

    def work(folder: Path) -> Mapping[str, Any]:
        dense = load_dense(workdir)
        ensemble = Ensemble(dense, scores, Dev(sets, dense, tolerance))
        sparsity, curve = choose_sparsity(ensemble, progress("Looking for the sparsity"))
        write_json(folder / "curve.json", curve)
        warning = {} if sparsity else {"warning": nothing_leaves(ensemble.dev)}
        return {"sparsity": sparsity, "dev": ensemble.dev.name, "curve": curve, **warning}

    return workdir.run_stage("choose", inputs, {"tolerance": tolerance}, work)
