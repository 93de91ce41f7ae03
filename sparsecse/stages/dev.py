"""The graded pairs that a run directory's choices are made on."""

from __future__ import annotations

from sparsecse.datasets import PairSet
from sparsecse.datasets.pairs import dev_pairs
from sparsecse.errors import InputError
from sparsecse.sources import DataOptions
from sparsecse.stages.score import score_data
from sparsecse.workdir import Workdir


class NoDevError(InputError):
    """Nothing to choose by: no graded pairs."""


def dev_sets(workdir: Workdir, dev: DataOptions | None = None) -> list[PairSet]:
    """The graded pairs that choices are made on: `dev`, or those of the scores and the dev sets that lie beside them.

    Raises:
        NoDevError: none of them has gold scores.
    """
    data = score_data(workdir)
    if dev is not None:
        pairs = dev.pairs()
        if pairs.scores is None:
            raise InputError(f"{pairs.source} has no gold scores for `dev`; add a column 'score' from 0 to 5.")
        return [pairs]
    graded = dev_pairs(data.graded(), data.data_dir)
    if not graded:
        raise NoDevError(
            f"{data.name} has no gold scores for `auto_tolerance`, `layers_compete` and `reconstruct` to choose by; "
            f"give graded pairs as `dev`, or a number as `sparsity` and no `reconstruct`."
        )
    return graded
