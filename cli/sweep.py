"""`sparsecse sweep`: a grid or a list of runs from a file; goes on where it stopped."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsecse.cli import options, run
from sparsecse.cli.groups import OPTIONS, UsageError
from sparsecse.cli.output import note, note_plots, progress, show
from sparsecse.cli.session import COMMAND, DEBUG, DEFAULT_WORKDIR
from sparsecse.errors import InputError, as_options
from sparsecse.processors import check_threads, default_threads
from sparsecse.settings import choose
from sparsecse.workdir import Workdir

if TYPE_CHECKING:
    from sparsecse.cells.cells import Engine, Outcome, Room
    from sparsecse.stages import Plan
    from sparsecse.sweeps.sweep import Sweep, SweepCell

ENGINES = ("processes", "ray")

_RUN = "run directory and output"
_ENGINE = "engine"

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="TOML: options of `sparsecse run` for all cells, a table [grid] with a list for each that varies, a table "
        "[[cells]] for each single cell.",
    ),
]
Out = Annotated[
    Path, typer.Option("--out", help="Folder of the cells, sweep.json and sweep.png.", rich_help_panel=_RUN)
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine", help="What computes the cells: processes of this machine, or ray.", rich_help_panel=_ENGINE
    ),
]
Processes = Annotated[
    int,
    typer.Option(
        "--processes", min=1, help="Cells at once; --threads are shared out among them.", rich_help_panel=_ENGINE
    ),
]
RayAddress = Annotated[
    str,
    typer.Option(
        "--ray-address",
        envvar="RAY_ADDRESS",
        help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT; `local` starts one on this machine.",
        rich_help_panel=_ENGINE,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="CPU threads of all cells at once together; by default what torch takes, or all of the Ray cluster.",
        rich_help_panel=_ENGINE,
    ),
]
Number = Annotated[
    int | None,
    typer.Option(
        "--cell",
        min=0,
        help="Measure the cell of this number alone, in this process, for job arrays.",
        show_default=False,
    ),
]
List = Annotated[bool, typer.Option("--list", help="Show the cells with their numbers; measure nothing.")]

_NOT_OF_CELLS = ("dtype", "bench", "out", "threads", "nproc", "workdir", "json")
"""Parameters of `run` that are not of a cell."""


def sweep(
    file: File,
    *,
    out: Out = Path("sparsecse-sweep"),
    cell: Number = None,
    list_: List = False,
    engine: EngineName = "processes",
    processes: Processes = 1,
    ray_address: RayAddress = "local",
    threads: Threads = None,
    json: options.Json = False,
) -> None:
    """Score, prune, rewind, repair and evaluate every cell of a grid or list, several at once; goes on after a kill.

    Cells share scores and the dense model's figures. A cell whose process dies is tried three times. Exit code 1 where
    a cell failed; the same command tries it again.
    """
    choose("engine", engine, ENGINES)
    threads = check_threads(threads)
    from sparsecse.sweeps.sweep import Sweep

    found = Sweep(out, read_plans(file), COMMAND.get())
    if cell is not None and cell >= len(found.cells):
        raise InputError(f"`cell` {cell} is not among the {len(found.cells)} cells of {file}; the first one is 0.")
    if list_:
        _list(found, file.name, json)
        return
    note_plots()
    told = _Told(found)
    finished = sum(one.key in found.results for one in found.cells)
    note(f"{len(found.cells)} cells, {finished} finished; first come the scores and dense figures that they share")
    with _opened(engine if cell is None else "", processes, ray_address, threads) as (computes, room):
        found.measure(computes, room, only=cell, progress=progress, told=told)
    _show(found, file, cell, json)
    if found.failures:
        raise typer.Exit(1)


def read_plans(file: Path) -> list[tuple[Mapping[str, Any], Plan]]:
    """The settings and the plan of each cell of a file; the settings are read as the options of `run` are."""
    from sparsecse.sweeps.grid import read_cells

    app = typer.Typer(add_completion=False)
    app.command()(run.run)
    command: Any = typer.main.get_command(app)
    parameters = {
        spelling.removeprefix("--"): parameter
        for parameter in command.params
        if parameter.name.rstrip("_") not in _NOT_OF_CELLS
        for spelling in parameter.opts
    }
    cells = read_cells(file, [name for name in parameters if name != "help"])
    return [(settings, _plan(file, number, settings, command, parameters)) for number, settings in enumerate(cells)]


def _plan(file: Path, number: int, settings: Mapping[str, Any], command: Any, parameters: Mapping[str, Any]) -> Plan:
    place = f"{file}, cell {number}"
    model = settings.get("model")
    if not isinstance(model, str) or not model:
        raise InputError(f"{place} has no model; add one: a folder, a hub id or demo.")
    arguments = [
        text
        for name, value in settings.items()
        if name != "model"
        for text in _arguments(f"{place}: {name}", parameters[name], f"--{name}", value)
    ]
    try:
        with command.make_context("run", [*arguments, "--", model]) as context:
            given = run.run.settle(dict(context.params))
        for name in _NOT_OF_CELLS:
            del given[name]
        return run.plan_of(Workdir(DEFAULT_WORKDIR), **given)
    except UsageError as error:
        raise InputError(f"{place}: {error.format_message()}") from None
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def _arguments(place: str, parameter: Any, option: str, value: Any) -> list[str]:
    """A value of the file as the command line has it."""
    from sparsecse.sweeps.grid import value_text

    if parameter.is_flag != isinstance(value, bool):
        wanted = "true or false" if parameter.is_flag else "a value"
        raise InputError(f"{place} is {value_text(value)}; give {wanted}.")
    if isinstance(value, bool):
        return [option if value else parameter.secondary_opts[0]]
    if isinstance(value, list) and parameter.multiple:
        return [text for one in value for text in (f"{option}={one}",)]
    return [f"{option}={','.join(map(str, value)) if isinstance(value, list) else value}"]


@contextlib.contextmanager
def _opened(name: str, processes: int, address: str, threads: int | None) -> Iterator[tuple[Engine, Room]]:
    """An engine and what it has to compute with; "" is this process."""
    from sparsecse.cells.cells import Room, here

    if name == "ray":
        from sparsecse.cells.cluster import on_ray, ray_cluster

        with ray_cluster(address, threads) as (ray, total, largest):
            yield on_ray(ray, processes), Room(processes, threads or total, largest)
        return
    import torch

    from sparsecse.cells.processes import processes as of_this_machine

    together = threads or default_threads(torch.get_num_threads())
    if not name:
        yield here, Room(1, together)
        return
    with of_this_machine(processes) as engine:
        yield engine, Room(processes, together)


class _Told:
    """Tells of each cell as it ends."""

    def __init__(self, found: Sweep):
        from sparsecse.sweeps.grid import varied

        self._names = varied([cell.settings for cell in found.cells])

    def __call__(self, cell: SweepCell, outcome: Outcome) -> None:
        about = cell.text(self._names)
        if outcome.error is not None:
            note(f"{about} failed: {as_options(str(outcome.error), OPTIONS)}")
            if os.environ.get(DEBUG) and (details := getattr(outcome.error, "details", "")):
                note(details)
            return
        assert outcome.value is not None
        figures = [f"{kind} {one['pruned']:.2f}" for kind, one in outcome.value["figures"].items()]
        note(f"{about}: {', '.join([*figures, f'{outcome.seconds:.0f} s'])}")


def _list(found: Sweep, name: str, as_json: bool) -> None:
    from sparsecse.cli.tables import settings_table
    from sparsecse.sweeps.grid import value_text, varied

    content = found.content(name)
    names = varied([cell.settings for cell in found.cells])
    rows = [
        [str(cell["number"]), *(value_text(cell["settings"].get(one)) for one in names), cell["state"]]
        for cell in content["cells"]
    ]
    show(as_json, content, settings_table(f"Cells of {name}", ["cell", *names, "state"], rows, len(names) + 1))


def _show(found: Sweep, file: Path, only: int | None, as_json: bool) -> None:
    """Print what was found and, after all cells, write it."""
    from sparsecse.cli.tables import settings_table
    from sparsecse.files import write_json
    from sparsecse.reporting.plots import can_draw
    from sparsecse.sweeps.summary import can_plot, groups_of, plot, table_of
    from sparsecse.sweeps.sweep import PLOT_FILE, SWEEP_FILE

    content = found.content(file.name)
    if only is not None:
        content = {**content, "cells": [content["cells"][only]]}
    groups = groups_of(content)
    content["groups"] = [group.to_json() for group in groups]
    finished = sum(group.cells for group in groups)
    written = found.out / SWEEP_FILE
    if only is None:
        write_json(written, content)
        if can_draw() and can_plot(groups):
            plot(groups, found.out / PLOT_FILE, file.name)
            note(f"Wrote {found.out / PLOT_FILE}")
    elif finished:
        written = found.results.path(found.cells[only].key)
    header, rows, settings = table_of(groups)
    title = f"{file.name}: {finished} of {len(content['cells'])} cells"
    show(as_json, content, settings_table(title, header, rows, settings), written=written)
    if only is None or finished:
        note(f"Wrote {written}")
