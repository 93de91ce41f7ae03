"""Which whole layers leave within a budget that heads and neurons share, chosen by dev score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sparsecse.evaluation.dev import Dev
from sparsecse.guard import Figures
from sparsecse.progress import Progress, silent
from sparsecse.pruning.costs import CostModel
from sparsecse.pruning.ensemble import Ensemble, choose_reconstruction
from sparsecse.pruning.masks import Mask
from sparsecse.pruning.order import Limits
from sparsecse.pruning.recipe import Recipe
from sparsecse.pruning.selection import affords, select_by_recipe
from sparsecse.pruning.surgery import prune

# Of the sets of layers at one depth, how many are reconstructed: those that are best without.
SHORTLIST = 2
# Depths that may pass without a better set before the search ends.
PATIENCE = 2


@dataclass(frozen=True)
class Tried:
    """One set of layers that stay: its dev figures as cut, and after the reconstruction where there is one."""

    layers: tuple[int, ...]
    dev_cut: Figures
    dev: Figures


def search_layers(
    ensemble: Ensemble, recipe: Recipe, models: Mapping[str, CostModel] | None = None, progress: Progress = silent
) -> list[Tried]:
    """The sets of layers tried, from all layers downwards; `best_layers` takes the one with the best `dev`.

    One layer more leaves at each depth, from the best set of the depth before: each that the budget affords and that
    holds nothing protected is cut to the whole budget and measured on dev; with `recipe.reconstruct` the two best are
    reconstructed and measured again. The search ends where the budget does, or after two depths without a better set.

    Args:
        ensemble: the scored model, its scores and dev sets.
        recipe: with `layers_compete`; its `layers` are ignored.
        models: see `selection.select_by_recipe`.

    Raises:
        InputError: a budget that cannot be met.
    """
    sizes = ensemble.scores.sizes()
    protected = {layer for layer, _ in Limits.of(sizes, recipe.align, recipe.protect).protected}
    report = progress("Trying layers")
    done = 0

    def mask_of(layers: tuple[int, ...]) -> Mask:
        return select_by_recipe(replace(recipe, layers=layers), ensemble.scores, sizes, models)

    def measured(layers: tuple[int, ...]) -> Tried:
        nonlocal done
        done += 1
        report(done, total)
        figures = ensemble.dev(prune(ensemble.dense, mask_of(layers)))
        return Tried(layers, figures, figures)

    def reconstructed(tried: Tried) -> Tried:
        mask = mask_of(tried.layers)
        _, info = choose_reconstruction(ensemble, mask, prune(ensemble.dense, mask), progress("Reconstructing"))
        return replace(tried, dev=info["dev"])

    rank = ensemble.dev.rank
    kept = tuple(range(len(sizes)))
    found: list[Tried] = []
    candidates, stale = [kept], 0
    while candidates and stale < PATIENCE:
        total = done + len(candidates)
        depth = sorted((measured(layers) for layers in candidates), key=lambda tried: rank(tried.dev_cut), reverse=True)
        if recipe.reconstruct:
            depth[:SHORTLIST] = [reconstructed(tried) for tried in depth[:SHORTLIST]]
        best = max(depth, key=lambda tried: rank(tried.dev))
        stale = 0 if not found or rank(best.dev) > max(rank(tried.dev) for tried in found) else stale + 1
        found += depth
        kept = best.layers
        smaller = [tuple(layer for layer in kept if layer != gone) for gone in kept if gone not in protected]
        candidates = [layers for layers in smaller if layers and affords(recipe, layers, sizes, models)]
    return found


def best_layers(tried: Sequence[Tried], dev: Dev) -> tuple[int, ...]:
    """The layers of the set that is best by the rule of dev; of equals the one with more layers."""
    return max(tried, key=lambda one: dev.rank(one.dev)).layers
