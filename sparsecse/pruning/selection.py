"""From a recipe and scores to the mask of what stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparsecse.pruning.costs import CostModel, select_by_cost
from sparsecse.pruning.masks import Budget, Mask, keep_layers, select, select_portable
from sparsecse.pruning.order import Limits
from sparsecse.pruning.recipe import Recipe
from sparsecse.scoring import Scores


def select_by_recipe(
    recipe: Recipe,
    scores: Scores | None,
    sizes: Sequence[tuple[int, int]],
    costs: Mapping[str, CostModel] | None = None,
) -> Mask:
    """The mask for a model of those sizes; without scores only whole layers leave.

    Args:
        sizes: for each layer its (heads, neurons).
        costs: the cost model of `recipe.cost`, under that name, where it is not "structures".
    """
    layers = range(len(sizes)) if recipe.layers is None else recipe.layers
    whole = keep_layers(None, sizes, layers)
    if scores is None:
        return whole
    own = scores.of_layers(layers)
    limits = Limits.of(sizes, recipe.align, recipe.protect).of_layers(layers)
    if recipe.portable:
        mask = select_portable(own, recipe.fraction or 0.0, recipe.align)
    elif recipe.cost == "structures":
        if recipe.layers_compete:
            budget = Budget.of(sizes, **recipe.budget).less(Budget.of_layers(sizes, layers))
        else:
            budget = Budget.of(own.sizes(), **recipe.budget)
        mask = select(own, budget, limits)
    else:
        model, sparsity = (costs or {})[recipe.cost], recipe.sparsity or 0.0
        if recipe.layers_compete:
            sparsity = max(0.0, _sparsity_left(sparsity, model, layers, sizes))
        mask = select_by_cost(own, model, sparsity, limits)
    return keep_layers(mask, sizes, layers)


def affords(
    recipe: Recipe,
    layers: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    costs: Mapping[str, CostModel] | None = None,
) -> bool:
    """Whether all but these layers may leave whole; see `select_by_recipe`."""
    if recipe.cost == "structures":
        budget, gone = Budget.of(sizes, **recipe.budget), Budget.of_layers(sizes, layers)
        return gone.heads <= budget.heads and gone.neurons <= budget.neurons
    return _sparsity_left(recipe.sparsity or 0.0, (costs or {})[recipe.cost], layers, sizes) >= 0


def _sparsity_left(sparsity: float, model: CostModel, layers: Sequence[int], sizes: Sequence[tuple[int, int]]) -> float:
    """The fraction of what these layers cost that the budget takes beyond the layers that leave."""
    own = model.cost([sizes[layer] for layer in layers])
    return 1 - (1 - sparsity) * model.cost(sizes) / own if own else 0.0
