"""How long work reports its progress."""

from collections.abc import Callable

Progress = Callable[[str], Callable[[int, int], None]]
"""Opens a progress line with a label; what it returns is called with (done, total)."""


def silent(_: str) -> Callable[[int, int], None]:
    """No progress display."""
    return lambda done, total: None
