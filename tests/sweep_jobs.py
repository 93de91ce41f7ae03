"""Cells for the engines' tests: they import nothing, so that the processes which compute them start at once."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """Writes its name into `log`; deaths: how often it kills its process; error: raised instead of an answer."""

    log: Path
    name: str
    deaths: int = 0
    error: Exception | None = None

    def __call__(self) -> dict[str, str | int]:
        with self.log.open("a") as file:
            file.write(f"{self.name}\n")
        if self.log.read_text().split().count(self.name) <= self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.error is not None:
            raise self.error
        return {"name": self.name, "pid": os.getpid()}
