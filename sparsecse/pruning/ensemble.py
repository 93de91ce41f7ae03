"""Cuts of the scored model at other sparsities, measured on dev pairs: which to take, to follow and to learn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
import torch.nn.functional as F

from sparsecse.datasets import PairSet
from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.evaluation import spearman
from sparsecse.pruning.masks import Budget, Mask, select
from sparsecse.pruning.reconstruction import reconstruct
from sparsecse.pruning.surgery import prune
from sparsecse.runtime import Runtime
from sparsecse.scoring import Scores

# Where `choose_sparsity` looks.
GRID = (0.0, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)
# Below it no set may fall from dense: the mean over the sets alone would let one pay for another.
LARGEST_FALL = 0.5
# What the dense model can be averaged with in a teacher, one after the other.
TEACHERS = (0.2, 0.4, 0.6)
# What the reconstruction can follow, and the strengths of its ridge.
REFERENCES = (0.0, 0.1, 0.2, 0.3)
STRENGTHS = (0.1, 1.0)
CALIBRATION_SENTENCES = 4000
# What a reconstruction must gain on dev to be taken: less is chance, and costs on the tasks that dev does not show.
LEAST_GAIN = 0.1
# What a cut may have lost on dev for training alone to repair it: of lighter ones reconstructed first, it makes less.
LIGHT_LOSS = 0.5


class Ensemble:
    """The dense model and its cuts by the same scores, without repair; what was embedded is not embedded again.

    Args:
        dense: the model that was scored.
        scores: its scores.
        dev: graded pairs that the choices are made on; the first are also the calibration data.
    """

    def __init__(self, dense: Encoder, scores: Scores, dev: Sequence[PairSet]):
        self.dense, self.scores, self.dev = dense, scores, list(dev)
        self._vectors: dict[float, dict[str, torch.Tensor]] = {}

    def encoder(self, sparsity: float) -> Encoder:
        """The cut at a sparsity of heads and neurons each; at 0 the dense model itself."""
        if not sparsity:
            return self.dense
        return prune(self.dense, select(self.scores, Budget.of(self.scores.sizes(), sparsity=sparsity)))

    def cuts(self, sparsities: Sequence[float]) -> Cuts:
        """The cuts at these sparsities, each made when it is asked for."""
        return Cuts(self, sparsities)

    def dev_scores(self, *sparsities: float) -> list[float]:
        """Spearman x100 on each dev set of the mean of these cuts' unit vectors."""
        tables = [self._table(sparsity) for sparsity in sparsities]
        return dev_scores(_Mean(tables), self.dev)

    def _table(self, sparsity: float) -> dict[str, torch.Tensor]:
        if sparsity not in self._vectors:
            sentences = list(dict.fromkeys(sentence for pairs in self.dev for sentence in pairs.sentences()))
            vectors = torch.as_tensor(Runtime(self.encoder(sparsity), "float32").encode(sentences))
            self._vectors[sparsity] = dict(zip(sentences, F.normalize(vectors.float(), dim=-1), strict=True))
        return self._vectors[sparsity]


class Cuts(Sequence[Encoder]):
    """Cuts of one dense model, of which nothing is in memory that nobody holds: teachers are needed one by one."""

    def __init__(self, ensemble: Ensemble, sparsities: Sequence[float]):
        self._ensemble, self._sparsities = ensemble, sparsities

    def __len__(self) -> int:
        return len(self._sparsities)

    @overload
    def __getitem__(self, index: int) -> Encoder: ...
    @overload
    def __getitem__(self, index: slice) -> Cuts: ...
    def __getitem__(self, index: int | slice) -> Encoder | Cuts:
        if isinstance(index, slice):
            return Cuts(self._ensemble, self._sparsities[index])
        return self._ensemble.encoder(self._sparsities[index])


class _Mean:
    """An encoder of sentences whose vectors are known: the mean of several models' unit vectors."""

    def __init__(self, tables: Sequence[dict[str, torch.Tensor]]):
        self._tables = tables

    def encode(self, sentences: list[str], *, batch_size: int) -> torch.Tensor:
        return torch.stack([torch.stack([table[sentence] for sentence in sentences]) for table in self._tables]).mean(0)


def dev_scores(encoder: Any, dev: Sequence[PairSet]) -> list[float]:
    """Spearman x100 on each dev set."""
    return [spearman(encoder, pairs) for pairs in dev]


def mean_dev_score(encoder: Any, dev: Sequence[PairSet]) -> float:
    """The mean of `dev_scores`."""
    return _mean(dev_scores(encoder, dev))


def dev_fingerprint(dev: Sequence[PairSet]) -> str:
    """A hash of all dev sets."""
    return "+".join(pairs.fingerprint() for pairs in dev)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def choose_sparsity(
    ensemble: Ensemble, tolerance: float, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[float, list[dict[str, Any]]]:
    """The largest sparsity whose mean dev score is within `tolerance` of the best, none of the sets far below dense.

    Returns the sparsity, and the curve it was read from: sparsity, mean, and the score of each set.

    Raises:
        InputError: a negative tolerance.
    """
    if not tolerance >= 0:
        raise InputError(
            f"`auto_tolerance` {tolerance:g} is below 0; give how many points of Spearman x100 may be lost."
        )
    curve: list[dict[str, Any]] = []
    for done, sparsity in enumerate(GRID, 1):
        scores = ensemble.dev_scores(sparsity)
        named = {f"{pairs.name} ({pairs.split})": score for pairs, score in zip(ensemble.dev, scores, strict=True)}
        curve.append({"sparsity": sparsity, "mean": _mean(scores), "dev": named})
        progress(done, len(GRID))
        # Far beyond the tolerance nothing is to be found any more.
        if curve[-1]["mean"] < max(point["mean"] for point in curve) - max(3.0, 3 * tolerance):
            progress(len(GRID), len(GRID))
            break
    return within_tolerance(curve, tolerance), curve


def within_tolerance(curve: Sequence[dict[str, Any]], tolerance: float) -> float:
    """The rule of `choose_sparsity` on a curve whose first point is the dense model."""
    dense = curve[0]["dev"]
    allowed = [
        point for point in curve if all(score >= dense[name] - LARGEST_FALL for name, score in point["dev"].items())
    ]
    best = max(point["mean"] for point in allowed)
    return max(point["sparsity"] for point in allowed if point["mean"] >= best - tolerance)


def choose_teachers(
    ensemble: Ensemble, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[tuple[float, ...], dict[str, float]]:
    """How many of the cuts to average with the dense model, by dev score.

    Returns the sparsities, and the mean dev score of each candidate by its name ("0+0.2").
    """
    tried: dict[tuple[float, ...], float] = {}
    for count in range(len(TEACHERS) + 1):
        members = (0.0, *TEACHERS[:count])
        tried[members] = _mean(ensemble.dev_scores(*members))
        progress(count + 1, len(TEACHERS) + 1)
    named = {"+".join(f"{sparsity:g}" for sparsity in members): score for members, score in tried.items()}
    return max(tried, key=lambda members: tried[members]), named


def choose_reference(ensemble: Ensemble, removed: float) -> float:
    """The sparsity, below what is removed, whose cut is best on dev: what a heavier cut is best led towards."""
    lighter = [sparsity for sparsity in REFERENCES if not sparsity or sparsity < removed]
    return max(lighter, key=lambda sparsity: _mean(ensemble.dev_scores(sparsity)))


def choose_reconstruction(
    ensemble: Ensemble,
    mask: Mask,
    cut: Encoder,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    trained_after: bool = False,
) -> tuple[Encoder, dict[str, Any]]:
    """A cut of the dense model with its output projections fitted again, if that is better on dev.

    The reference is the best on dev of the dense model and its lightest cuts; a few strengths are tried.

    Args:
        mask: what was cut.
        cut: the encoder without repair; left as it is.
        trained_after: a cut that lost less than `LIGHT_LOSS` on dev is left to the training that follows.

    Returns the better encoder, and for the record the dev scores, the reference's sparsity and the strength (None
    where the cut without repair is as good, to `LEAST_GAIN`, or left to the training).
    """
    before = mean_dev_score(Runtime(cut, "float32"), ensemble.dev)
    if trained_after and before > _mean(ensemble.dev_scores(0.0)) - LIGHT_LOSS:
        return cut, {"dev_before": before, "dev": before, "reference_sparsity": None, "strength": None}
    removed = 1 - sum(int(neurons.sum()) for neurons in mask.neurons) / max(1, sum(map(len, mask.neurons)))
    reference = choose_reference(ensemble, removed)
    teacher = ensemble.encoder(reference)
    token_ids = cut.tokenize(ensemble.dev[0].sentences()[:CALIBRATION_SENTENCES])
    best, best_score, best_strength = cut, before + LEAST_GAIN, None
    for number, strength in enumerate(STRENGTHS):

        def report(done: int, total: int, number: int = number) -> None:
            progress(number * total + done, len(STRENGTHS) * total)

        fitted = cut.copy()
        reconstruct(fitted, teacher, token_ids, layers=mask.kept_layers(), strength=strength, progress=report)
        score = mean_dev_score(Runtime(fitted, "float32"), ensemble.dev)
        if score > best_score:
            best, best_score, best_strength = fitted, score, strength
    return best, {
        "dev_before": before,
        "dev": best_score if best_strength else before,
        "reference_sparsity": reference,
        "strength": best_strength,
    }
