"""The similarity tasks by SimCSE's protocol: Spearman of cosines and gold scores, alignment and uniformity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from sparsecse.datasets import PairSet
from sparsecse.errors import InputError
from sparsecse.evaluation.embedding import SentenceEncoder, embed
from sparsecse.kernels import uniformity
from sparsecse.objectives import alignment


@dataclass(frozen=True)
class Subset:
    """One part of a task (STS12's MSRpar): Spearman x100 over its own pairs."""

    spearman: float
    pairs: int


@dataclass(frozen=True)
class TaskResult:
    """Spearman x100 over all pairs of a task (SimCSE's "all"), and over its subsets where it has them."""

    spearman: float
    pairs: int
    source: str
    subsets: dict[str, Subset]

    @property
    def subset_mean(self) -> float | None:
        """The mean of the subsets' Spearman, each counting once; None without subsets."""
        if not self.subsets:
            return None
        return sum(subset.spearman for subset in self.subsets.values()) / len(self.subsets)

    @property
    def subset_weighted_mean(self) -> float | None:
        """The mean of the subsets' Spearman, each counting by its pairs; None without subsets."""
        if not self.subsets:
            return None
        return sum(subset.spearman * subset.pairs for subset in self.subsets.values()) / self.pairs

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`; the keys about subsets are there only where the task has subsets."""
        result: dict[str, Any] = {"spearman": self.spearman, "pairs": self.pairs, "source": self.source}
        if self.subsets:
            result["subsets"] = {name: vars(subset) for name, subset in self.subsets.items()}
            result["subset_mean"] = self.subset_mean
            result["subset_weighted_mean"] = self.subset_weighted_mean
        return result


def similarity(name: str, pairs: PairSet, unit: Callable[[Sequence[str]], torch.Tensor]) -> TaskResult:
    """Measure one similarity task.

    unit: sentences to their unit vectors [N, d].

    Raises:
        InputError: gold scores or cosines that are all the same, so that Spearman is undefined.
    """
    cosines = (unit(pairs.first).double() * unit(pairs.second).double()).sum(dim=1)
    assert pairs.scores is not None  # every named set is graded
    golds = torch.tensor(pairs.scores, dtype=torch.float64)
    subsets = {}
    for subset in dict.fromkeys(pairs.subsets or ()):
        inside = torch.tensor([each == subset for each in pairs.subsets or ()])
        subsets[subset] = Subset(_spearman(cosines[inside], golds[inside], f"{name}, {subset}"), int(inside.sum()))
    return TaskResult(_spearman(cosines, golds, name), len(pairs), pairs.source, subsets)


def align_uniform(
    pairs: PairSet, unit: Callable[[Sequence[str]], torch.Tensor], positive_minimum: float
) -> tuple[float | None, float]:
    """Alignment (None where no pair is scored `positive_minimum` or more) and uniformity on one task."""
    positive = torch.tensor(pairs.scores) >= positive_minimum
    first, second = unit(pairs.first)[positive], unit(pairs.second)[positive]
    aligned = float(alignment(first, second)) if len(first) else None
    return aligned, float(uniformity(unit(pairs.sentences()), t=2.0))


def spearman(encoder: SentenceEncoder, pairs: PairSet, *, batch_size: int = 64) -> float:
    """Spearman x100 of one graded pair set; what training watches.

    Raises:
        InputError: the pairs have no gold scores, or they or the cosines are all the same.
    """
    if pairs.scores is None:
        raise InputError(f"{pairs.name} has no gold scores; give pairs with a score column.")
    sentences = pairs.sentences()
    vectors = F.normalize(embed(encoder, sentences, batch_size), dim=1).double()
    row = {sentence: index for index, sentence in enumerate(sentences)}
    first, second = (vectors[[row[sentence] for sentence in side]] for side in (pairs.first, pairs.second))
    cosines = (first * second).sum(dim=1)
    return _spearman(cosines, torch.tensor(pairs.scores, dtype=torch.float64), pairs.name)


def _spearman(cosines: torch.Tensor, golds: torch.Tensor, where: str) -> float:
    for values, what in ((golds, "gold scores"), (cosines, "cosines")):
        if bool((values == values[0]).all()):
            raise InputError(
                f"Spearman is undefined on {where}: its {len(values)} {what} are all {values[0]:.4g}; "
                "give pairs, and a model, that tell sentences apart."
            )
    return 100 * float(spearmanr(cosines.numpy(), golds.numpy()).statistic)
