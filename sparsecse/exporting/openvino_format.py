"""Export to OpenVINO, in float32, with bfloat16 weights, or quantised to int8 by NNCF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.exporting.comparison import Run
from sparsecse.exporting.export import Format, export, require
from sparsecse.exporting.graph import Graph
from sparsecse.exporting.report import ExportReport

_FORMAT = Format("openvino", "openvino_model", ".xml", ("float32", "bfloat16", "int8"))

CALIBRATION_SENTENCES = 300
"""As many sentences are read of those given for calibration: NNCF's own default."""


def export_openvino(
    encoder: Encoder,
    folder: str | Path,
    *,
    precision: str = "float32",
    pooled: bool = False,
    calibration: Sequence[str] = (),
    tolerance: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Write an encoder as OpenVINO IR, with dynamic batch and length, and compare what it computes with torch.

    OpenVINO computes in bfloat16 wherever the CPU has it, whatever the file holds: for float32 results the model must
    be compiled with `{"INFERENCE_PRECISION_HINT": "f32"}`, in sentence-transformers
    `model_kwargs={"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}`. The comparison here does so.

    Args:
        encoder: dense or pruned; the graph is float32 whatever its own precision.
        folder: as for `export_onnx`. The files are `openvino/openvino_model.xml` and `.bin` in it, which
            `SentenceTransformer(folder, backend="openvino")` loads; for bfloat16 `openvino_model_bfloat16`, for int8
            `openvino_model_qint8_quantized`, and with `pooled` the same with `_pooled` at the end.
        precision: "float32"; "bfloat16": matrices are stored in bfloat16, half the file; "int8": weights and
            activations quantised after NNCF has seen the calibration sentences.
        pooled: as for `export_onnx`.
        calibration: sentences like those to be embedded, for int8 only; `CALIBRATION_SENTENCES` of them are used.
        tolerance: see `TOLERANCES`, which has the default.
        progress: called with the parts done and in all: tracing, writing, comparing.

    Raises:
        InputError: as `export_onnx`; and int8 without calibration sentences.
    """
    require(_FORMAT, ("openvino", *(("nncf",) if precision == "int8" else ())), precision)
    if precision == "int8" and not calibration:
        raise InputError("Export to OpenVINO in int8 needs calibration sentences; give some hundred of your own data.")
    token_ids = encoder.tokenize(list(calibration[:CALIBRATION_SENTENCES]))

    def write(graph: Graph, target: Path) -> None:
        import openvino

        model = openvino.convert_model(graph.program)
        model.outputs[0].get_tensor().set_names({graph.output})
        if precision == "int8":
            model = _quantize(model, graph.inputs, token_ids)
        elif precision == "bfloat16":
            _store_in_bfloat16(model)
        try:
            openvino.save_model(model, target, compress_to_fp16=False)
        except RuntimeError as error:  # how OpenVINO reports a full disk
            raise OSError(f"OpenVINO: {str(error).strip()}") from error

    def load(path: Path) -> Run:
        import openvino

        hint = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32"}
        compiled = openvino.Core().compile_model(path, "CPU", hint)
        return lambda inputs: compiled(dict(inputs))[0]

    return export(encoder, folder, _FORMAT, precision, pooled, tolerance, write=write, progress=progress, load=load)


def _store_in_bfloat16(model: Any) -> None:
    """Replace every float32 matrix by a bfloat16 one and a conversion, which OpenVINO folds when it compiles."""
    import openvino
    from openvino import opset13

    for node in model.get_ops():
        is_float = node.get_type_name() == "Constant" and node.get_element_type() == openvino.Type.f32
        # Vectors (biases, LayerNorm) are small and stay exact.
        if is_float and len(node.get_output_shape(0)) >= 2:
            stored = opset13.constant(node.get_data(), dtype=openvino.Type.bf16)
            node.output(0).replace(opset13.convert(stored, destination_type="f32").output(0))


def _quantize(model: Any, inputs: Sequence[str], token_ids: Sequence[Sequence[int]]) -> Any:
    """Weights and activations, by NNCF's scheme for Transformers.

    Weights alone would need no calibration, but their products stay in floating point. MiniLM on STS-B test: 82.13 and
    twice as fast as weights alone, 82.03 (float32: 82.03).
    """
    import nncf

    rows = [np.array([ids]) for ids in token_ids]
    samples = [
        {name: np.ones_like(row) if name == "attention_mask" else row * (name == "input_ids") for name in inputs}
        for row in rows
    ]
    return nncf.quantize(model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples))
