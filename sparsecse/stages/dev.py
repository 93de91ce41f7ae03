"""The dev sets that a run directory's choices are made on."""

from __future__ import annotations

from sparsecse.datasets.pairs import dev_pairs
from sparsecse.errors import InputError
from sparsecse.evaluation.dev import DevSet
from sparsecse.sources import DevOptions
from sparsecse.stages.score import check_scored, score_data
from sparsecse.workdir import Workdir


class NoDevError(InputError):
    """Nothing to choose by: no dev set was named, and no scores were taken, or those on sentences alone."""


def dev_sets(workdir: Workdir, dev: DevOptions | None = None) -> list[DevSet]:
    """What choices are made on: `dev`, or the graded pairs of the scores and the dev sets that lie beside them.

    Raises:
        NoDevError: no `dev`, and no gold scores or nothing scored.
        InputError: no `dev`, and the pairs of the scores were changed since.
    """
    if dev is not None:
        return dev.load()
    if workdir.record("score") is None:  # whole layers or the vocabulary alone have left
        raise NoDevError(f"{workdir.path} has no scores, and so no graded pairs to choose by; give dev sets as `dev`.")
    data = score_data(workdir)
    pairs = data.graded()
    if pairs is not None and workdir.need("score").settings.get("positives") != "dropout":
        check_scored(workdir, pairs)
    graded = dev_pairs(pairs, data.data_dir)
    if not graded:
        raise NoDevError(
            f"{data.name} has no gold scores for `sparsity` auto, `layers` auto and `reconstruct` to choose by; "
            f"give dev sets as `dev`, or a number as `sparsity` and no `reconstruct`."
        )
    return [DevSet.of(pairs) for pairs in graded]
