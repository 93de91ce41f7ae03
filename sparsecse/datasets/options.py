"""A data set as it is asked for: by name or file, with what finding it takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sparsecse.datasets.pairs import load_pairs
from sparsecse.datasets.sets import PairSet
from sparsecse.datasets.views import graded_pairs


@dataclass(frozen=True)
class DataOptions:
    """A data set by name or file: `--data`, `--split`, `--data-dir`, `--columns`."""

    name: str
    split: str | None = None
    data_dir: str | None = None
    columns: tuple[str, ...] | None = None

    def pairs(self) -> PairSet:
        return load_pairs(self.name, split=self.split, data_dir=self.data_dir, columns=self.columns)

    def graded(self) -> PairSet | None:
        """The pairs where they have gold scores, else None; see `datasets.graded_pairs`."""
        return graded_pairs(self.name, split=self.split, data_dir=self.data_dir, columns=self.columns)

    def settings(self) -> dict[str, Any]:
        return asdict(self)
