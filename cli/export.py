"""`sparsecse export`: an ONNX or OpenVINO model, checked against the torch model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sparsecse.cli import options
from sparsecse.cli.groups import Only, takes
from sparsecse.cli.output import note, progress, show
from sparsecse.cli.session import DEFAULT_WORKDIR, set_threads
from sparsecse.errors import InputError
from sparsecse.settings import choose
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.workdir import Workdir

ExportModel = Annotated[
    str, typer.Argument(help="Model to export, dense or packed; by default the newest of the run directory.")
]
Format = Annotated[str, typer.Option("--format", help="onnx or openvino.")]
Precision = Annotated[str, typer.Option("--precision", help="float32; int8 (both formats); bfloat16 (openvino).")]
Pooled = Annotated[
    bool, typer.Option("--pooled", help="Pool and normalise inside the graph: it then ends with sentence vectors.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write into; by default the model's own folder.")]
Calibration = Annotated[
    str,
    typer.Option("--calibration", help="Sentences for OpenVINO's int8: demo, a text file, a table, or a pair set."),
]
Tolerance = Annotated[
    float | None,
    typer.Option("--tolerance", help="Largest allowed difference to the torch model; by default the precision's own."),
]

_CALIBRATION_SENTENCES = 300


@takes(reading=Only(DataOptions(), ("data_dir",)), loading=ModelOptions())
def export(
    model: ExportModel = "",
    *,
    format_: Format = "onnx",
    precision: Precision = "float32",
    pooled: Pooled = False,
    out: Out = None,
    calibration: Calibration = "demo",
    reading: DataOptions,
    tolerance: Tolerance = None,
    loading: ModelOptions,
    threads: options.Threads = None,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Write a model as ONNX or OpenVINO where sentence-transformers looks for it, compared with the torch model."""
    from sparsecse import stages
    from sparsecse.datasets import load_sentences
    from sparsecse.exporting import export_onnx, export_openvino

    choose("format", format_, ("onnx", "openvino"))
    set_threads(threads)
    source = model or str(stages.newest_folder(Workdir(workdir)))
    if out is None:
        if not Path(source).is_dir():
            raise InputError(f"{source} is not a folder of yours to write into; give --out DIR.")
        out = Path(source)
    encoder = replace(loading, name=stages.resolve_model(source)).load()
    if format_ == "onnx":
        report = export_onnx(
            encoder, out, precision=precision, pooled=pooled, tolerance=tolerance, progress=progress("Exporting")
        )
    else:
        sentences = load_sentences(calibration, data_dir=reading.data_dir)[:_CALIBRATION_SENTENCES]
        report = export_openvino(
            encoder,
            out,
            precision=precision,
            pooled=pooled,
            calibration=sentences if precision == "int8" else (),
            tolerance=tolerance,
            progress=progress("Exporting"),
        )
    show(
        json,
        report.to_json(),
        f"Wrote {report.paths[0]} ({report.bytes:,} bytes); against torch: largest difference "
        f"{report.max_difference:.2g}, smallest cosine {report.cosine_minimum:.5f}",
        written=report.paths[0],
    )
    ends = "sentence vectors" if pooled else "token vectors (sentence vectors: --pooled)"
    note(f"{report.loader} loads it; its output {report.output} is the {ends}")
