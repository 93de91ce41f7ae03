"""What an export wrote and how far it is from the torch model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ExportReport:
    """One exported model.

    paths: its files, the one to load first.
    format: "onnx" or "openvino".
    precision: "float32", "bfloat16" or "int8".
    pooled: whether the graph ends with the sentence vectors instead of the token vectors.
    bytes: of all its files.
    max_difference: largest absolute difference of an element of the unit sentence vectors to the torch model's.
    cosine_minimum: smallest cosine of a sentence vector to the torch model's.
    """

    paths: tuple[Path, ...]
    format: str
    precision: str
    pooled: bool
    bytes: int
    max_difference: float
    cosine_minimum: float

    @property
    def loader(self) -> str:
        """The Python call that loads it with nothing but the format's own package."""
        path = self.paths[0].as_posix()
        if self.format == "onnx":
            return f'onnxruntime.InferenceSession("{path}")'
        return f'openvino.Core().compile_model("{path}", "CPU")'

    @property
    def output(self) -> str:
        """The name of the graph's output."""
        return "sentence_embedding" if self.pooled else "last_hidden_state"

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`."""
        return {**vars(self), "paths": [str(path) for path in self.paths]}
