"""Cuts of the scored model at other sparsities, measured on dev: which to take, to follow and to learn from."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any, overload

import torch

from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.evaluation.dev import Dev
from sparsecse.evaluation.embedding import Remembered
from sparsecse.guard import Guard
from sparsecse.pruning.masks import Budget, Mask, select
from sparsecse.pruning.reconstruction import reconstruct
from sparsecse.pruning.surgery import prune
from sparsecse.scoring import Scores

# Where `choose_sparsity` looks.
GRID = (0.0, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)
# What the dense model can be averaged with in a teacher, one after the other.
TEACHERS = (0.2, 0.4, 0.6)
# What the reconstruction can follow, and the strengths of its ridge.
REFERENCES = (0.0, 0.1, 0.2, 0.3)
STRENGTHS = (0.1, 1.0)
# On text one will do: 0.01 came to the same within 0.2 of agreement.
TEXT_STRENGTHS = (0.1,)
# What it is fitted on, at most; longer sentences are cut off.
CALIBRATION_TOKENS = 80_000
CALIBRATION_LENGTH = 128
# What a reconstruction must gain on dev to be taken: less is chance, and costs on the tasks that dev does not show.
LEAST_GAIN = 0.1
# What a cut may have lost on dev for training alone to repair it: of lighter ones reconstructed first, it makes less.
LIGHT_LOSS = 0.5


class Ensemble:
    """The dense model and its cuts by the same scores, without repair; what was embedded is not embedded again.

    Args:
        dense: the model that was scored.
        scores: its scores.
        dev: what the choices are made on, with `dense` as its dense model; the first set's texts are also the
            calibration data where there is no text.
        text: sentences like those that will be embedded, for calibration: a reconstruction on them follows the dense
            model, so that the vectors stay in its space.
    """

    def __init__(self, dense: Encoder, scores: Scores, dev: Dev, text: Sequence[str] = ()):
        self.dense, self.scores, self.dev, self.text = dense, scores, dev, text
        self._cuts = {0.0: dev.dense}

    def encoder(self, sparsity: float) -> Encoder:
        """The cut at a sparsity of heads and neurons each; at 0 the dense model itself."""
        if not sparsity:
            return self.dense
        return prune(self.dense, select(self.scores, Budget.of(self.scores.sizes(), sparsity=sparsity)))

    @functools.cached_property
    def calibration(self) -> list[list[int]]:
        """Token ids of the sentences that a reconstruction is fitted on, `CALIBRATION_TOKENS` at most."""
        sentences = list(self.text or self.dev.sets[0].sentences())
        random.Random(0).shuffle(sentences)
        ids: list[list[int]] = []
        left = CALIBRATION_TOKENS
        for start in range(0, len(sentences), 512):
            for sentence in self.dense.tokenize(sentences[start : start + 512], CALIBRATION_LENGTH):
                left -= len(sentence)
                if left < 0 and ids:
                    return ids
                ids.append(sentence)
        return ids

    def cuts(self, sparsities: Sequence[float]) -> Cuts:
        """The cuts at these sparsities, each made when it is asked for."""
        return Cuts(self, sparsities)

    def each(self, *sparsities: float) -> list[float]:
        """The figure on each dev set of the mean of these cuts' unit vectors."""
        for sparsity in sparsities:
            make = functools.partial(self.encoder, sparsity)
            self._cuts.setdefault(sparsity, Remembered(make, self.dense.settings))
        members = [self._cuts[sparsity] for sparsity in sparsities]
        figures = self.dev.each(members[0] if len(members) == 1 else _Mean(members))
        for member in members:
            member.release()
        return figures

    def figures(self, *sparsities: float) -> dict[str, float]:
        """The figure of each kind of the mean of these cuts' unit vectors."""
        return self.dev.kinds(self.each(*sparsities))


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
    """The mean of several models' unit vectors."""

    def __init__(self, members: Sequence[Remembered]):
        self._members, self.settings = members, members[0].settings

    def encode(self, sentences: list[str], *, batch_size: int, prompt: str | None = None) -> torch.Tensor:
        vectors = [member.encode(sentences, batch_size=batch_size, prompt=prompt) for member in self._members]
        return torch.stack(vectors).mean(0)


def choose_sparsity(
    ensemble: Ensemble, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[float, list[dict[str, Any]]]:
    """The largest sparsity at which no labelled kind falls by more than the tolerance of dev.

    Returns the sparsity, and the curve it was read from: sparsity, the figures of the kinds, and those of the sets.

    Raises:
        InputError: nothing on dev has labels.
    """
    dev = ensemble.dev
    if not dev.labelled:
        raise InputError(
            f"`sparsity` auto removes what costs nothing of what is labelled, and {dev.name} has no labels; give "
            f"graded pairs or a retrieval set as `dev`, or a number as `sparsity`."
        )
    curve: list[dict[str, Any]] = []
    for done, sparsity in enumerate(GRID, 1):
        each = ensemble.each(sparsity)
        names = [one.name for one in dev.sets]
        curve.append({"sparsity": sparsity, "dev": dev.kinds(each), "sets": dict(zip(names, each, strict=True))})
        progress(done, len(GRID))
        # Far beyond the tolerance nothing is to be found any more.
        if dev.guard.shortfall(curve[-1]["dev"]) > max(3.0, 3 * dev.tolerance):
            progress(len(GRID), len(GRID))
            break
    return largest_allowed(curve, dev.guard), curve


def largest_allowed(curve: Sequence[dict[str, Any]], guard: Guard) -> float:
    """The rule of `choose_sparsity` on a curve that begins with the dense model."""
    return max(point["sparsity"] for point in curve if guard.allows(point["dev"]))


def nothing_leaves(dev: Dev) -> str:
    """What is to be said where `choose_sparsity` comes to 0."""
    return (
        f"No head or neuron leaves: every cut tried loses more than {dev.tolerance:g} points of similarity or "
        f"retrieval on dev ({dev.name})."
    )


def choose_teachers(
    ensemble: Ensemble, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[tuple[float, ...], dict[str, dict[str, float]]]:
    """How many of the cuts to average with the dense model, by the rule of dev.

    Returns the sparsities, and the figures of each candidate by its name ("0+0.2").
    """
    tried: dict[tuple[float, ...], dict[str, float]] = {}
    for count in range(len(TEACHERS) + 1):
        members = (0.0, *TEACHERS[:count])
        tried[members] = ensemble.figures(*members)
        progress(count + 1, len(TEACHERS) + 1)
    named = {"+".join(f"{sparsity:g}" for sparsity in members): figures for members, figures in tried.items()}
    return max(tried, key=lambda members: ensemble.dev.rank(tried[members])), named


def choose_reference(ensemble: Ensemble, removed: float) -> float:
    """The sparsity, below what is removed, whose cut is best on dev: what a heavier cut is best led towards.

    It is 0, the dense model, where the ensemble has text.
    """
    if ensemble.text:
        return 0.0
    lighter = [sparsity for sparsity in REFERENCES if not sparsity or sparsity < removed]
    return max(lighter, key=lambda sparsity: ensemble.dev.rank(ensemble.figures(sparsity)))


def choose_reconstruction(
    ensemble: Ensemble,
    mask: Mask,
    cut: Encoder,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    fitted: Mask | None = None,
    trained_after: bool = False,
) -> tuple[Encoder, dict[str, Any]]:
    """A cut of the dense model with its output projections fitted again, if that is better on dev.

    The reference is the dense model where the ensemble has text, else the best on dev of it and its lightest cuts; a
    few strengths are tried there.

    Args:
        mask: what was cut.
        cut: the encoder without repair; left as it is.
        fitted: what is cut before the projections are fitted again; by default `mask`.
        trained_after: a cut that lost less than `LIGHT_LOSS` on dev is left to the training that follows, where there
            is no text.

    Returns the better encoder, and for the record the dev figures, the reference's sparsity and the strength (None
    where the cut without repair is as good, to `LEAST_GAIN`, or left to the training).
    """
    dev = ensemble.dev
    before = dev(cut)
    if trained_after and not ensemble.text and dev.guard.gain(before) > -LIGHT_LOSS:
        return cut, {"dev_before": before, "dev": before, "reference_sparsity": None, "strength": None}
    removed = 1 - sum(int(neurons.sum()) for neurons in mask.neurons) / max(1, sum(map(len, mask.neurons)))
    reference = choose_reference(ensemble, removed)
    teacher = ensemble.encoder(reference)
    strengths = TEXT_STRENGTHS if ensemble.text else STRENGTHS
    allowed, points = dev.rank(before)
    best, figures, best_strength, bar = cut, before, None, (allowed, points + LEAST_GAIN)
    ids, layers = ensemble.calibration, mask.kept_layers()
    source = cut if fitted is None or fitted is mask else prune(ensemble.dense, fitted)
    for number, strength in enumerate(strengths):

        def report(done: int, total: int, number: int = number) -> None:
            progress(number * total + done, len(strengths) * total)

        candidate = source.copy()
        reconstruct(candidate, teacher, ids, layers=layers, strength=strength, progress=report)
        found = dev(candidate)
        if dev.rank(found) > bar:
            best, figures, best_strength, bar = candidate, found, strength, dev.rank(found)
    return best, {"dev_before": before, "dev": figures, "reference_sparsity": reference, "strength": best_strength}
