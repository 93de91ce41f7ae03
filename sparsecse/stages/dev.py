"""The dev sets that a run directory's choices are made on."""

from __future__ import annotations

from sparsecse.datasets.pairs import dev_pairs
from sparsecse.errors import InputError
from sparsecse.evaluation.dev import DevSet
from sparsecse.sources import DevOptions
from sparsecse.stages.score import score_data
from sparsecse.workdir import Workdir


class NoDevError(InputError):
    """Nothing to choose by: no dev set was named, and the scores were taken on sentences alone."""


def dev_sets(workdir: Workdir, dev: DevOptions | None = None) -> list[DevSet]:
    """What choices are made on: `dev`, or the graded pairs of the scores and the dev sets that lie beside them.

    Raises:
        NoDevError: no `dev`, and no gold scores.
    """
    if dev is not None:
        return dev.load()
    data = score_data(workdir)
    graded = dev_pairs(data.graded(), data.data_dir)
    if not graded:
        raise NoDevError(
            f"{data.name} has no gold scores for `sparsity` auto, `layers` auto and `reconstruct` to choose by; "
            f"give dev sets as `dev`, or a number as `sparsity` and no `reconstruct`."
        )
    return [DevSet.of(pairs) for pairs in graded]
