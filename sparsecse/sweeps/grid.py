"""The file of a sweep: settings of all cells, a grid, single cells -> the settings of each cell."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sparsecse.errors import InputError, meant
from sparsecse.files import read_toml
from sparsecse.reading import shown

Settings = Mapping[str, Any]
"""The options of a cell by their names without dashes: texts, numbers, true, false, and lists of texts and numbers."""

GRID, CELLS = "grid", "cells"


def read_cells(path: Path, names: Collection[str]) -> list[Settings]:
    """The settings of each cell of a TOML file, those of the grid first, its last key changing fastest.

    Keys outside of tables hold for all cells. `[grid]` has a list for each key and makes a cell of every combination.
    Each `[[cells]]` is one cell more.

    Args:
        names: the options that a cell may have.

    Raises:
        InputError: no TOML, an unknown key, a value of another kind, no cells, or two with the same settings.
    """
    content = read_toml(path)
    grid, single = content.pop(GRID, {}), content.pop(CELLS, [])
    if not isinstance(grid, dict):
        raise InputError(f"{path}: {GRID} is {shown(grid)}; write a table [{GRID}] with a list for each key.")
    if not isinstance(single, list) or not all(isinstance(one, dict) for one in single):
        raise InputError(f"{path}: {CELLS} is {shown(single)}; write a table [[{CELLS}]] for each cell.")
    for table, place in ((content, ""), (grid, f" in [{GRID}]"), *((one, f" in [[{CELLS}]]") for one in single)):
        _check_names(path, table, place, [*names, *(() if place else (GRID, CELLS))])
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise InputError(f"{path}: {name} in [{GRID}] is {shown(values)}; give a list of the values that it takes.")
        if name in content:
            raise InputError(f"{path} has {name} for all cells and in [{GRID}] too; leave one of them out.")
    combined = itertools.product(*grid.values()) if grid else ()
    cells: list[Settings] = [content | dict(zip(grid, values, strict=True)) for values in combined]
    cells += [content | one for one in single]
    if not cells:
        raise InputError(f"{path} has no cells; add a table [{GRID}] with a list for each key, or a table [[{CELLS}]].")
    for number, cell in enumerate(cells):
        for name, value in cell.items():
            _check_value(path, name, value)
        if (first := cells.index(cell)) < number:
            raise InputError(f"{path}: cells {first} and {number} have the same settings; leave one of them out.")
    return cells


def _check_names(path: Path, table: Settings, place: str, known: Collection[str]) -> None:
    for name in table:
        if name not in known:
            raise InputError(
                f"{path} has the key '{name}'{place}, which is no option of a cell; the keys are those of `sparsecse "
                f"run --help` that score, prune, rewind, repair or evaluate.{meant(name, known)}"
            )


def _check_value(path: Path, name: str, value: Any) -> None:
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, str | int | float):
            raise InputError(f"{path}: {name} is {shown(value)}; give a text, a number, true, false, or a list.")


def varied(cells: Collection[Settings]) -> list[str]:
    """The names of the settings in which cells differ, in the order of the file."""
    names = dict.fromkeys(name for cell in cells for name in cell)
    return [name for name in names if len({repr(cell.get(name)) for cell in cells}) > 1]


def value_text(value: Any) -> str:
    """A value as a table and a message show it; "" where there is none."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ",".join(map(value_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.15g}" if isinstance(value, float) else str(value)
