"""Packages whose names are loaded when they are first used (PEP 562), so that importing the package stays cheap."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def lazy_names(package: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """`__all__`, `__getattr__` and `__dir__` of a package that imports its names under `if TYPE_CHECKING:` only.

    Its `__init__.py` calls this in the `else` of that condition: type checkers then see plain imports, and Python reads
    from them where each name comes from.

    Args:
        package: the package's `__name__`.
    """
    source = Path(str(sys.modules[package].__file__)).with_suffix(".py").read_text(encoding="utf-8")
    imports = [
        statement
        for condition in ast.parse(source).body
        if isinstance(condition, ast.If) and ast.unparse(condition.test) == "TYPE_CHECKING"
        for statement in condition.body
        if isinstance(statement, ast.ImportFrom)
    ]
    modules = {alias.name: str(statement.module) for statement in imports for alias in statement.names}

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return sorted(modules), load, listed
