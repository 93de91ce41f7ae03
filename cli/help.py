"""Help that lists what the library has, looked up when it is asked for: the command line starts without the library."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

METHODS_HELP = "<scoring methods>"
"""Stands in an option's help for every scoring method with its description."""


def methods_help() -> str:
    """`name: description` of every scoring method."""
    from sparsecse.scoring import METHODS

    return "; ".join(f"{name}: {method.description}" for name, method in METHODS.items()) + "."


class LookedUp(TyperCommand):
    """A command whose options' help is completed before it is shown."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for parameter in self.params:
            if getattr(parameter, "help", None) == METHODS_HELP:
                parameter.help = methods_help()  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)
