"""Stage `choose`: how much may leave, read from a curve on dev."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsecse.files import write_json
from sparsecse.progress import Progress, silent
from sparsecse.pruning.ensemble import Ensemble, choose_sparsity, dev_fingerprint
from sparsecse.sources import DataOptions
from sparsecse.stages.dev import dev_sets
from sparsecse.stages.models import load_dense
from sparsecse.stages.score import SCORES_FILE, load_scores
from sparsecse.workdir import Record, Workdir


def choose(
    workdir: Workdir, tolerance: float, dev_data: DataOptions | None = None, *, progress: Progress = silent
) -> tuple[Record, bool]:
    """Stage `choose`: the largest sparsity that costs at most `tolerance` points on dev, without repair.

    dev_data: see `dev.dev_sets`. The record's info holds `sparsity`, and the `curve` that it was read from.
    """
    scores = load_scores(workdir)
    dev = dev_sets(workdir, dev_data)
    inputs = {
        f"score/{SCORES_FILE}": workdir.output_hash("score", SCORES_FILE),
        "dev": dev_fingerprint(dev),
    }

    def work(folder: Path) -> Mapping[str, Any]:
        ensemble = Ensemble(load_dense(workdir), scores, dev)
        sparsity, curve = choose_sparsity(ensemble, tolerance, progress("Looking for the sparsity"))
        write_json(folder / "curve.json", curve)
        return {"sparsity": sparsity, "curve": curve}

    return workdir.run_stage("choose", inputs, {"tolerance": tolerance}, work)
