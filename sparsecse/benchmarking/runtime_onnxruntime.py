"""Runtime "onnxruntime": the exported graph, pooling included, with padding; int8 is its dynamic quantisation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from sparsecse.benchmarking.runtimes import Runtime, Setup, padded

if TYPE_CHECKING:
    from sparsecse.encoders import Encoder


class _OnnxRuntime:
    def __init__(self, session: onnxruntime.InferenceSession, pad_token_id: int):
        self._session, self._pad_token_id = session, pad_token_id
        self._names = [value.name for value in session.get_inputs()]

    def encode_ids(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
        input_ids, mask = padded(token_ids, self._pad_token_id)
        values = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(input_ids)}
        return self._session.run(None, {name: values[name] for name in self._names})[0]


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
    config = json.loads((setup.converted.parents[1] / "config.json").read_text(encoding="utf-8"))
    return _OnnxRuntime(session, config["pad_token_id"])
