"""The steps that both formats share: trace, write aside, compare with the torch model, move into place."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsecse.encoders import Encoder
from sparsecse.errors import InputError, meant
from sparsecse.exporting.comparison import TOLERANCES, Run, check, compare
from sparsecse.exporting.folder import staged
from sparsecse.exporting.graph import Graph, converting, trace
from sparsecse.exporting.report import ExportReport

_PARTS = 3  # tracing, writing, comparing
# sentence-transformers' own names: file stem + suffix of the precision. A pooled graph has a name of its own, since
# sentence-transformers pools by itself and must not find it under the default one.
_SUFFIXES = {"float32": "", "bfloat16": "_bfloat16", "int8": "_qint8_quantized"}


@dataclass(frozen=True)
class Format:
    """What is fixed for a format: its name, which its folder and its extra have too, and what it calls its files.

    precisions: those of `TOLERANCES` that it has.
    """

    name: str
    stem: str
    extension: str
    precisions: tuple[str, ...]


def require(format: Format, packages: Sequence[str], precision: str) -> None:
    """Raise `InputError` for a missing package, with the pip command, and for a precision that the format lacks."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError:
            raise InputError(
                f"Export to {format.name} needs the package {package}, which is not installed; "
                f"run pip install 'sparsecse[{format.name}]'."
            ) from None
    if precision not in format.precisions:
        known, near = ", ".join(format.precisions), meant(precision, format.precisions)
        raise InputError(f"`precision` {precision} is not one of {format.name}'s; choose one of {known}.{near}")


def export(
    encoder: Encoder,
    folder: str | Path,
    format: Format,
    precision: str,
    pooled: bool,
    tolerance: float | None,
    *,
    write: Callable[[Graph, Path], None],
    load: Callable[[Path], Run],
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Export into the folder of the format's name in `folder`; `write` and `load` are what differs between formats.

    write: writes a graph to a path, and what belongs to it beside.
    load: reads it back, ready to run.
    progress: called with (done, 3) after each of tracing, writing and comparing.
    """
    report = progress or (lambda done, total: None)
    report(0, _PARTS)
    # The caller's may be on a GPU, in half precision or in training; the graph is none of it.
    reference = encoder.copy().float().cpu()
    # Without gradients for good: attention gives other strides when MPNet's biases want one, and torch.onnx, which
    # traces again, would find them changed.
    reference.eval().requires_grad_(False)
    graph = trace(reference, pooled)
    report(1, _PARTS)
    folder = Path(folder)
    name = Path(format.name) / f"{format.stem}{_SUFFIXES[precision]}{'_pooled' if pooled else ''}{format.extension}"
    with staged(folder, reference, name) as stage:
        (stage / name).parent.mkdir()
        with converting(reference, format.name):
            write(graph, stage / name)
            report(2, _PARTS)
            difference = compare(reference, load(stage / name), pooled)
            report(3, _PARTS)
        limit = TOLERANCES[precision] if tolerance is None else tolerance
        check(difference, precision, limit, f"{folder / name}")
        parts = [path.relative_to(stage) for path in (stage / name).parent.iterdir()]
    paths = tuple(folder / part for part in sorted(parts, key=lambda part: part != name))
    return ExportReport(
        paths=paths,
        format=format.name,
        precision=precision,
        pooled=pooled,
        bytes=sum(path.stat().st_size for path in paths),
        max_difference=difference.maximum,
        cosine_minimum=difference.cosine_minimum,
    )
