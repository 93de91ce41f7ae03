"""Writes what was measured into a folder of MTEB's results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsecse.encoders import Encoder, fingerprint
from sparsecse.evaluation import Tasks
from sparsecse.evaluation.mteb import MtebModel, mteb_results
from sparsecse.files import write_json
from sparsecse.packing.folder import count_parameters, model_name


def write_mteb(
    out: Path, source: str, encoder: Encoder, precision: str, result: Mapping[str, Any], tasks: Tasks
) -> Path:
    """Write `<out>/<model>/<revision>/<task>.json` for each task, and `model_meta.json` beside; returns their folder.

    The revision is the hash of the weights and settings, with the precision where that is not float32.

    Args:
        source: the model as it was given, a folder or a hub id.
        result: `Evaluation.to_json()` of the encoder.
        tasks: the data that was measured on.
    """
    suffix = "" if precision == "float32" else f"-{precision}"
    name = model_name(source)
    model = MtebModel(
        name=name if "/" in name else f"local/{name}",
        revision=fingerprint(encoder)[:40] + suffix,
        parameters=count_parameters(encoder),
        dimension=encoder.width(),
        max_length=encoder.settings.max_length,
    )
    folder = out / model.folder
    for name, content in mteb_results(result, tasks).items():
        write_json(folder / f"{name}.json", content)
    write_json(folder / "model_meta.json", model.to_json())
    return folder
