"""Stage `latency`, and the cost models that a cut of a run directory's model is chosen and reported by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sparsecse.benchmarking import machine
from sparsecse.benchmarking.latency_table import LENGTHS, SENTENCES, LatencyTable, measure_latency
from sparsecse.budgets import CostModel, multiply_add_cost, parameter_cost, removed_fraction
from sparsecse.encoders import Encoder
from sparsecse.masks import Mask
from sparsecse.runtime import native
from sparsecse.stages.options import Progress, silent
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
        "threads": torch.get_num_threads(),
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


def closed_form(encoder: Encoder, average_length: int) -> dict[str, CostModel]:
    """The cost models that need no measurement, by the names of `budgets.COSTS`."""
    config = encoder.model.config
    return {"parameters": parameter_cost(config), "multiply-adds": multiply_add_cost(config, average_length)}


def reached(mask: Mask, models: Mapping[str, CostModel], *, of_all: bool = False) -> dict[str, Any]:
    """The fractions that a mask removes: heads, neurons, and by each cost model.

    of_all: of all layers; by default of those that stay.
    """
    layers = mask.kept_layers()
    after = [mask.kept()[layer] for layer in layers]
    before = mask.sizes() if of_all else [mask.sizes()[layer] for layer in layers]
    found: dict[str, Any] = {}
    for i, kind in enumerate(("heads", "neurons")):
        whole = sum(sizes[i] for sizes in before)
        found[kind] = 1 - sum(sizes[i] for sizes in after) / whole if whole else 0.0
    found |= {name: removed_fraction(model, before, after) for name, model in models.items()}
    table = models.get("latency")
    if isinstance(table, LatencyTable):
        found["seconds_per_pass"] = _seconds(table, before, after)
    return found


def _seconds(table: LatencyTable, *sizes: Sequence[tuple[int, int]]) -> list[float]:
    return [table.rest_seconds + table.cost(layers) for layers in sizes]
