"""Runtime "onnxruntime": the exported graph, pooling included, with padding; int8 is its dynamic quantisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime

from sparsecse.benchmarking.runtimes import ExportedGraph, Runtime, Setup

if TYPE_CHECKING:
    from sparsecse.encoders import Encoder


def convert(encoder: Encoder, precision: str, sentences: Sequence[str], folder: Path) -> Path:
    """Export with `export_onnx`, pooled."""
    from sparsecse.exporting import export_onnx

    # Any tolerance: how far the vectors are off is measured, and stands in the row.
    return export_onnx(encoder, folder / precision, precision=precision, pooled=True, tolerance=math.inf).paths[0]


def load(setup: Setup) -> Runtime:
    """Load the exported graph with onnxruntime's defaults but for the number of threads."""
    assert setup.converted is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = setup.threads, 1
    session = onnxruntime.InferenceSession(setup.converted, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return ExportedGraph(lambda inputs: session.run(None, inputs), names, setup.converted)
