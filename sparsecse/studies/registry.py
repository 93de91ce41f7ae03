"""The studies by name. The command line, its help, benchmarks and tests take the names from here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsecse.studies.study import Study


@dataclass(frozen=True)
class StudySpec:
    """A study before it is imported, so that help needs no PyTorch.

    module: what has its `STUDY`.
    summary: what it measures, for help, with the options that are not for every study.
    """

    module: str
    summary: str

    def load(self) -> Study:
        return import_module(self.module).STUDY


STUDIES = {
    "sparsity": StudySpec(
        "sparsecse.studies.sparsity", "quality, alignment, uniformity and speed from 1 to 99 % (--seeds)"
    ),
    "scorers": StudySpec(
        "sparsecse.studies.scorers", "the paper's score against its rivals and the controls (--methods, --seeds)"
    ),
    "lambda": StudySpec("sparsecse.studies.lambdas", "alignment against uniformity"),
    "oracle": StudySpec("sparsecse.studies.oracle", "every score against the true effect of removals (--methods)"),
    "frontier": StudySpec("sparsecse.studies.frontier", "quality against measured speed, against dropped layers"),
}
