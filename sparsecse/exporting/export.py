"""The steps that both formats share: trace, write aside, compare with the torch model, move into place."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.exporting.comparison import TOLERANCES, Run, check, compare
from sparsecse.exporting.folder import staged
from sparsecse.exporting.graph import Graph, converting, trace
from sparsecse.exporting.report import ExportReport

# sentence-transformers' own names: file stem + suffix of the precision. A pooled graph has a name of its own, since
# sentence-transformers pools by itself and must not find it under the default one.
_SUFFIXES = {"float32": "", "bfloat16": "_bfloat16", "int8": "_qint8_quantized"}


def require(packages: Sequence[str], extra: str) -> None:
    """Raise `InputError` with the pip command where a package is missing."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError:
            raise InputError(
                f"Export to {extra} needs the package {package}, which is not installed; "
                f"run pip install 'sparsecse[{extra}]'."
            ) from None


def require_precision(precision: str, known: Sequence[str], extra: str) -> None:
    """Raise `InputError` for a precision that a format does not have."""
    if precision not in known:
        raise InputError(f"`precision` {precision} is not one of {extra}'s; choose one of {', '.join(known)}.")


def export(
    encoder: Encoder,
    folder: Path,
    *,
    format_name: str,
    stem: str,
    extension: str,
    precision: str,
    pooled: bool,
    tolerance: float | None,
    write: Callable[[Graph, Path], None],
    load: Callable[[Path], Run],
) -> ExportReport:
    """Export into `folder/format_name/`; `write` and `load` are what differs between formats.

    write: writes a graph to a path, and what belongs to it beside.
    load: reads it back, ready to run.
    """
    # The caller's may be on a GPU, in half precision or in training; the graph is none of it.
    reference = encoder.copy().float().cpu()
    # Without gradients for good: attention gives other strides when MPNet's biases want one, and torch.onnx, which
    # traces again, would find them changed.
    reference.eval().requires_grad_(False)
    graph = trace(reference, pooled)
    name = Path(format_name) / f"{stem}{_SUFFIXES[precision]}{'_pooled' if pooled else ''}{extension}"
    with staged(folder, reference) as stage:
        (stage / name).parent.mkdir()
        with converting(reference, format_name):
            write(graph, stage / name)
            difference = compare(reference, load(stage / name), pooled)
        limit = TOLERANCES[precision] if tolerance is None else tolerance
        check(difference, precision, limit, f"{folder / name}")
        parts = [path.relative_to(stage) for path in (stage / name).parent.iterdir()]
    paths = tuple(folder / part for part in sorted(parts, key=lambda part: part != name))
    return ExportReport(
        paths=paths,
        format=format_name,
        precision=precision,
        pooled=pooled,
        bytes=sum(path.stat().st_size for path in paths),
        max_difference=difference.maximum,
        cosine_minimum=difference.cosine_minimum,
    )
