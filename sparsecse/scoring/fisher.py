"""Second-order scores: the empirical Fisher information of the gates, its diagonal and its blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from sparsecse.datasets import PairSet
from sparsecse.encoders import Encoder
from sparsecse.scoring.accumulators import BlockFisher, Mean
from sparsecse.scoring.gradients import accumulate_one
from sparsecse.scoring.scores import Scores
from sparsecse.scoring.settings import ScoringSettings


def fisher(
    encoder: Encoder,
    pairs: PairSet,
    settings: ScoringSettings,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """E_x (dL/dg_x)^2, the diagonal of the gates' empirical Fisher information (Kwon et al. 2022, eq. 9)."""
    mean = Mean(encoder, torch.square)
    values = accumulate_one(encoder, pairs, settings, mean, progress)
    return Scores.of(mean.result(), values, combine="sums")


def fisher_block(
    encoder: Encoder,
    pairs: PairSet,
    settings: ScoringSettings,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """The place of each structure in the greedy elimination by m^T F m, F = E_x[g g^T] within each layer.

    m is 1 for what is removed. All layers' heads stand in one order and all layers' neurons in another, so that the
    lowest scores are the greedy set at any budget. Block-diagonal Fisher after Kwon et al. 2022, who refine a given
    mask by it; memory as `BlockFisher` says.
    """
    blocks = BlockFisher(encoder)
    values = accumulate_one(encoder, pairs, settings, blocks, progress)
    found = blocks.result()
    Scores.of([block.diagonal() for block in found])  # refuses NaN, which the places would hide
    layers = len(found) // 2
    places = [*greedy_places(found[:layers]), *greedy_places(found[layers:])]
    return Scores.of(places, values, combine="order")


def greedy_places(blocks: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """When each structure leaves, 0 first, where each time the one with the smallest increase of m^T F m leaves.

    The increase of i is F_ii + 2 * sum of F_ij over the j that have left its layer. Ties go to the earlier layer and
    the lower index.

    Args:
        blocks: of each layer F, [structures, structures], symmetric.

    Returns:
        of each layer the places, [structures] in float64.
    """
    sizes = [len(block) for block in blocks]
    costs = torch.cat([block.diagonal() for block in blocks]).double().cpu()
    costs_of, places = costs.split(sizes), torch.empty_like(costs)
    rows_of = [block.cpu() for block in blocks]
    layer_of = [layer for layer, size in enumerate(sizes) for _ in range(size)]
    first_of = torch.tensor([0, *sizes]).cumsum(dim=0).tolist()
    for place in range(len(costs)):
        structure = int(costs.argmin())
        layer = layer_of[structure]
        places[structure] = place
        costs_of[layer].add_(rows_of[layer][structure - first_of[layer]], alpha=2)
        costs[structure] = torch.inf  # stays infinite, whatever is added later
    return list(places.split(sizes))
