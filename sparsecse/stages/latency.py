"""Stage `latency`: the latency table of this machine for a run directory's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sparsecse.benchmarking import machine
from sparsecse.benchmarking.latency_table import LENGTHS, SENTENCES, LatencyTable, measure_latency
from sparsecse.encoders import Encoder
from sparsecse.processors import default_threads
from sparsecse.progress import Progress, silent
from sparsecse.runtime import native
from sparsecse.workdir import Workdir

TABLE_FILE = "table.json"


def latency_table(
    workdir: Workdir, encoder: Encoder, *, precision: str, average_length: int, progress: Progress = silent
) -> LatencyTable:
    """The times of this machine for models of the encoder's shape, measured unless the run directory has them."""
    config = encoder.model.config
    machine_ = machine()
    settings: dict[str, Any] = {
        "hidden_size": config.hidden_size,
        "attention_head_size": config.attention_head_size,
        "activation": config.hidden_act,
        "sizes": config.layer_sizes(),
        "precision": precision,
        "threads": default_threads(torch.get_num_threads()),
        "average_length": average_length,
        "lengths": list(LENGTHS),
        "sentences": SENTENCES,
        "machine": {name: machine_[name] for name in ("cpu", "instruction_sets", "cores")},
        "obstacle": native.obstacle(encoder.model),
    }

    def work(folder: Path) -> Mapping[str, Any]:
        table = measure_latency(
            encoder, average_length=average_length, precision=precision, progress=progress("Timing layers")
        )
        table = replace(table, conditions={**table.conditions, "machine": machine_})
        table.save(folder / TABLE_FILE)
        return {**table.conditions, "seconds_per_pass": table.rest_seconds + table.cost(config.layer_sizes())}

    workdir.run_stage("latency", {}, settings, work)
    return LatencyTable.load(workdir.folder("latency") / TABLE_FILE)
