"""Write encoders as ONNX and OpenVINO models, checked against the torch model, where sentence-transformers looks."""

from sparsecse.exporting.comparison import TOLERANCES
from sparsecse.exporting.onnx_format import export_onnx
from sparsecse.exporting.openvino_format import export_openvino
from sparsecse.exporting.report import ExportReport

__all__ = ["TOLERANCES", "ExportReport", "export_onnx", "export_openvino"]
