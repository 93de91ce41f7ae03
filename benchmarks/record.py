"""How several of these scripts end: the record, and what `--check` makes of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_rows(path: Path | None, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what was measured, and on what, where a file is asked for."""
    if path is not None:
        path.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


def verdict(missed: Sequence[str]) -> int:
    """Print the bounds that were missed; returns the exit code."""
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0
