"""Writes what was measured into a folder of MTEB's results, where no others lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsecse.encoders import Encoder, fingerprint
from sparsecse.errors import InputError
from sparsecse.evaluation import Tasks
from sparsecse.evaluation.mteb import MtebModel, mteb_results, task_names
from sparsecse.files import read_json, write_json
from sparsecse.packing.folder import count_parameters, model_name


def mteb_model(source: str, encoder: Encoder, precision: str) -> MtebModel:
    """The model as MTEB's files name it; source: as it was given, a folder or a hub id.

    The revision is the hash of the weights and settings, with the precision where that is not float32.
    """
    suffix = "" if precision == "float32" else f"-{precision}"
    name = model_name(source)
    return MtebModel(
        name=name if "/" in name else f"local/{name}",
        revision=fingerprint(encoder)[:40] + suffix,
        parameters=count_parameters(encoder),
        dimension=encoder.width(),
        max_length=encoder.settings.max_length,
    )


def check_mteb(out: Path, model: MtebModel, tasks: Tasks) -> None:
    """Raise `InputError` where a file would be replaced that is not an earlier result of ours for the same model."""
    ours = {f"{name}.json": {"task_name": name, "mteb_version": None} for name in task_names(tasks).values()}
    ours["model_meta.json"] = {"name": model.name, "revision": model.revision}
    for name, values in ours.items():
        path = out / model.folder / name
        if not path.exists():
            continue
        found = read_json(path)
        if not isinstance(found, dict) or any(found.get(key, "") != value for key, value in values.items()):
            raise InputError(
                f"{path} is there and was not written by sparsecse; move it away, or give another `mteb_dir`."
            )


def write_mteb(
    out: Path, source: str, encoder: Encoder, precision: str, result: Mapping[str, Any], tasks: Tasks
) -> Path:
    """Write `<out>/<model>/<revision>/<task>.json` for each task, and `model_meta.json` beside; returns their folder.

    Args:
        source, precision: see `mteb_model`.
        result: `Evaluation.to_json()` of the encoder.
        tasks: the data that was measured on.

    Raises:
        InputError: see `check_mteb`; nothing is written then.
    """
    model = mteb_model(source, encoder, precision)
    check_mteb(out, model, tasks)
    folder = out / model.folder
    for name, content in mteb_results(result, tasks).items():
        write_json(folder / f"{name}.json", content)
    write_json(folder / "model_meta.json", model.to_json())
    return folder
