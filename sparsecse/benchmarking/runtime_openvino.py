"""Runtime "openvino": the exported graph, pooling included, with padding; int8 is NNCF's, weights and activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import openvino

from sparsecse.benchmarking.runtimes import ExportedGraph, Runtime, Setup

if TYPE_CHECKING:
    from sparsecse.encoders import Encoder

# int8 has no entry: what NNCF leaves in floating point runs in what OpenVINO takes by default, its fastest.
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def convert(encoder: Encoder, precision: str, sentences: Sequence[str], folder: Path) -> Path:
    """Export with `export_openvino`, pooled; bfloat16 is a way to run the float32 file.

    sentences: what int8 is calibrated with.
    """
    from sparsecse.exporting import export_openvino

    stored = "int8" if precision == "int8" else "float32"
    target = folder / stored
    if not target.exists():
        calibration = sentences if stored == "int8" else ()
        # Any tolerance: how far the vectors are off is measured, and stands in the row.
        export_openvino(encoder, target, precision=stored, pooled=True, calibration=calibration, tolerance=math.inf)
    return next((target / "openvino").glob("*.xml"))


def load(setup: Setup) -> Runtime:
    """Load the exported graph for one request at a time, on exactly the threads asked for."""
    assert setup.converted is not None
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": setup.threads,
        # else that hint takes one thread of every core
        "ENABLE_HYPER_THREADING": True,
    }
    if setup.precision in _HINTS:
        properties["INFERENCE_PRECISION_HINT"] = _HINTS[setup.precision]
    model = openvino.Core().compile_model(setup.converted, "CPU", properties)
    return ExportedGraph(model, [value.any_name for value in model.inputs], setup.converted)
