"""The `sparsecse` command."""

from sparsecse.cli.app import main

__all__ = ["main"]
