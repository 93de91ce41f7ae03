"""A recipe carried out in memory: from scores and a mask to the smaller encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparsecse.encoders import Encoder
from sparsecse.evaluation.dev import Dev, DevSet
from sparsecse.progress import Progress, silent
from sparsecse.pruning.costs import CostModel, closed_form, reached
from sparsecse.pruning.ensemble import REFERENCES, Ensemble, choose_reconstruction, choose_reference
from sparsecse.pruning.exchange import least_error
from sparsecse.pruning.iterative import prune_iteratively
from sparsecse.pruning.masks import Budget, Mask
from sparsecse.pruning.order import Limits
from sparsecse.pruning.recipe import Recipe
from sparsecse.pruning.surgery import prune
from sparsecse.scoring import Scores
from sparsecse.vocabulary import Corpus, fit_vocabulary


@dataclass(frozen=True)
class Pruned:
    """What a recipe comes to.

    encoder: the smaller model. mask: what stayed of the dense one.
    kept_tokens: [tokens], int64, their ids in the dense vocabulary; None where the whole vocabulary stayed.
    info: sizes, the fractions that left, the vocabulary's and the reconstruction's report, as JSON.
    """

    encoder: Encoder
    mask: Mask
    kept_tokens: torch.Tensor | None
    info: dict[str, Any]


def carry_out(
    recipe: Recipe,
    mask: Mask,
    dense: Encoder,
    scores: Scores | None = None,
    *,
    dev: Sequence[DevSet] = (),
    costs: Mapping[str, CostModel] | None = None,
    corpus: Corpus | None = None,
    rescore: Callable[[Encoder], Scores] | None = None,
    text: Sequence[str] = (),
    trained_after: bool = False,
    progress: Progress = silent,
) -> Pruned:
    """Prune an encoder by a recipe whose choices have been made.

    Args:
        recipe: with a number for `sparsity`, not "auto", and with the layers that stay.
        mask: of `selection.select_by_recipe`; iterative pruning finds another one of the same budget, and
            `within_layers` "error" one of the same counts in each layer, which is taken if it is reconstructed.
        dense: the model; left as it is.
        scores: of the dense model; None where only whole layers and the vocabulary leave.
        dev: what the reconstruction is chosen on.
        costs: cost models to report by; by default those that need no measurement.
        corpus: of the tokens that stay, where the recipe reduces the vocabulary.
        rescore: for iterative pruning: scores of what is left.
        text: what the reconstruction is fitted on; see `ensemble.Ensemble`.
        trained_after: a training follows, which light pruning is left to; see `ensemble.choose_reconstruction`.
    """
    smaller = kept = None
    if recipe.rounds > 1 and scores is not None and rescore is not None:
        mask, smaller = _iteratively(recipe, dense, scores, dev, rescore, text, progress)
    info: dict[str, Any] = {"kept": mask.kept(), "sizes": mask.sizes(), "layers": mask.kept_layers()}
    if recipe.needs_scores:
        info["budget"] = {
            "asked": recipe.budget | {"of": recipe.cost},
            "removed": reached(mask, costs or closed_form(dense, recipe.average_length), of_all=recipe.layers_compete),
            "average_length": recipe.average_length,
        }
    narrowed = dense
    if corpus is not None:
        # Before the surgery: tokens are weighed by the model that knows them best.
        narrowed, report = fit_vocabulary(
            dense, corpus, recipe.vocab_size, scripts=recipe.vocab_scripts, progress=_vocabulary_progress(progress)
        )
        narrowed.origin = dense.pruned_from()
        tokens = narrowed.tokenizer.convert_ids_to_tokens(list(range(report.tokens_after)))
        kept = torch.tensor(dense.tokenizer.convert_tokens_to_ids(tokens))
        info["vocabulary"] = report.to_json()
    smaller = smaller or prune(narrowed, mask)
    if recipe.reconstruct and scores is not None:
        ensemble = Ensemble(narrowed, scores, Dev(dev, narrowed, recipe.tolerance), text)
        exchanged = mask
        if recipe.within_layers == "error":
            limits = Limits.of(mask.sizes(), protect=recipe.protect)
            exchanged = least_error(
                mask, narrowed, ensemble.calibration, limits, progress=progress("Choosing within layers")
            )
        smaller, fit = choose_reconstruction(
            ensemble, mask, smaller, progress("Reconstructing"), fitted=exchanged, trained_after=trained_after
        )
        if exchanged is not mask and fit["strength"] is not None:
            mask, fit = exchanged, {"within_layers": recipe.within_layers, **fit}
        info["reconstruction"] = fit
    return Pruned(smaller, mask, kept, info)


def _iteratively(
    recipe: Recipe,
    dense: Encoder,
    scores: Scores,
    dev: Sequence[DevSet],
    rescore: Callable[[Encoder], Scores],
    text: Sequence[str],
    progress: Progress,
) -> tuple[Mask, Encoder]:
    reference, calibration = None, list[list[int]]()
    if recipe.reconstruct:
        ensemble = Ensemble(dense, scores, Dev(dev, dense, recipe.tolerance), text)
        followed = choose_reference(ensemble, max(recipe.fraction or 0.0, REFERENCES[-1]))
        reference, calibration = ensemble.encoder(followed), ensemble.calibration
    return prune_iteratively(
        dense,
        scores,
        Budget.of(scores.sizes(), **recipe.budget),
        recipe.rounds,
        recipe.schedule,
        rescore,
        reference=reference,
        calibration=calibration,
        progress=progress("Pruning iteratively"),
    )


def _vocabulary_progress(progress: Progress) -> Callable[[str, int, int], None]:
    labels = {"count": "Counting tokens", "weigh": "Weighing tokens", "measure": "Measuring the coverage"}
    updates: dict[str, Callable[[int, int], None]] = {}

    def update(stage: str, done: int, total: int) -> None:
        if stage not in updates:
            updates[stage] = progress(labels[stage])
        updates[stage](done, total)

    return update
