"""A study as a list of cells, each written as soon as it is measured, so that a killed study goes on where it was."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsecse.benchmarking.machine import machine, versions
from sparsecse.cells.cells import Cell, check_identity, measure_cells
from sparsecse.errors import InputError
from sparsecse.files import read_json, write_json, write_text
from sparsecse.reporting.plots import can_draw, png

Results = Mapping[str, Mapping[str, Any]]
"""Cell key -> what was measured."""


@dataclass(frozen=True)
class Study:
    """A question, how it is measured, and how the answer is shown.

    title: the question in a line.
    cells: (setup) -> the measurements, in order.
    paragraph: what the results say in a few sentences, made from the numbers alone.
    table: the header and the rows of the results.
    draw: (results, matplotlib axes) -> None.
    """

    title: str
    cells: Callable[[Any], Sequence[Cell]]
    paragraph: Callable[[Results], str]
    table: Callable[[Results], tuple[Sequence[str], Sequence[Sequence[str]]]]
    draw: Callable[[Results, Any], None]


def read_study(path: Path) -> dict[str, Any]:
    """The JSON file of a study; `InputError` where it is none."""
    content = read_json(path)
    if not isinstance(content, dict) or "results" not in content or "study" not in content:
        raise InputError(f"{path} is not the file of a study; move it away or give another `out`.")
    return content


class _File:
    """The ledger of a study: its JSON file, written after each cell."""

    def __init__(self, path: Path, content: dict[str, Any]):
        self._path = path
        self._content = content

    def __contains__(self, key: object) -> bool:
        return key in self._content["results"]

    def keep(self, key: str, result: dict[str, Any]) -> None:
        self._content["results"][key] = result
        self._content["date"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        write_json(self._path, self._content)


def run_study(
    name: str,
    study: Study,
    setup: Any,
    out: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure the cells that `<out>/<name>.json` does not have yet, writing the file after each.

    They close over the setup, whose model and scores are in memory, and so are measured in this process.

    Args:
        name: the study's, in its registry.
        setup: what the cells measure; its `identity()` must be that of the file, if there is one.
        progress: called with (cells done, cells in all) before each cell and at the end.

    Raises:
        InputError: the file belongs to another model, data or repair, or the report would replace one that no study
            wrote.
    """
    path = out / f"{name}.json"
    for report_file in (path.with_suffix(".md"), path.with_suffix(".png")):
        if report_file.exists() and not path.exists():
            raise InputError(f"{report_file} was not written by a study; move it away, or give another `out`.")
    identity = json.loads(json.dumps(setup.identity()))  # as the file has it: lists for tuples
    content: dict[str, Any] = {"study": name, "title": study.title, **identity, "results": {}}
    if path.exists():
        content = read_study(path)
        check_identity(path, content, identity)
    content |= {"machine": machine(), "versions": versions(("numpy", "scipy"))}
    measure_cells(study.cells(setup), _File(path, content), progress=progress)
    return read_study(path)  # the same whether cells were measured now or before


def write_report(study: Study, content: Mapping[str, Any], out: Path, *, name: str | None = None) -> list[Path]:
    """Write `<name>.md` (paragraph, table) and, with matplotlib, `<name>.png`; returns what was written.

    name: of the files; the study's by default.
    """
    name = name or content["study"]
    results = content["results"]
    header, rows = study.table(results)
    lines = [
        f"# {study.title}",
        "",
        study.paragraph(results),
        "",
        "| " + " | ".join(header) + " |",
        "| " + " | ".join(["---"] * len(header)) + " |",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        f"{content['model']}, {content.get('date', '')[:10]}, {content['machine']['cpu']}; "
        f"seconds in all: {sum(cell['seconds'] for cell in results.values()):.0f}.",
    ]
    written = [out / f"{name}.md"]
    write_text(written[0], "\n".join(lines) + "\n")
    if not can_draw():
        return written
    written.append(out / f"{name}.png")
    with png(written[1], (8, 5), 120, "sparsecse study") as figure:
        axes = figure.subplots()
        study.draw(results, axes)
        axes.set_title(study.title, fontsize=10)
    return written
