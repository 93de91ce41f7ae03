"""Budgets in which heads and neurons compete: what each layer costs, and the cheapest cut that comes down to it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from sparsecse.encoders import Encoder, SparseCSEConfig
from sparsecse.errors import InputError
from sparsecse.pruning.masks import Mask
from sparsecse.pruning.order import Limits, orders
from sparsecse.pruning.recipe import AVERAGE_LENGTH
from sparsecse.scoring import Scores
from sparsecse.settings import check_fraction

_ROUNDING = 1e-12


class CostModel(Protocol):
    """What the layers of an encoder cost, in any unit; no embeddings, no pooling."""

    def cost(self, layer_sizes: Sequence[tuple[int, int]]) -> float:
        """The cost of layers with these (heads, neurons); it never rises when a head or a neuron leaves."""
        ...


@dataclass(frozen=True)
class LinearCost:
    """So much for each head, for each neuron, and for each layer whatever it has."""

    head: float
    neuron: float
    layer: float = 0.0

    def cost(self, layer_sizes: Sequence[tuple[int, int]]) -> float:
        return sum(heads * self.head + neurons * self.neuron + self.layer for heads, neurons in layer_sizes)


def parameter_cost(config: SparseCSEConfig) -> LinearCost:
    """Parameters of the layers: a head's three projections with biases and its part of the output projection, a
    neuron's rows, biases and column; of each layer two output biases and its norms: two, or four
    with those of outputs (of ModernBERT's first layer, too, which has one less), and those of queries and keys. Of keys
    and values that heads share, each has its part."""
    hidden, head_size, rows = config.hidden_size, config.attention_head_size, 1 + config.gated
    norms = 4 if config.norm_outputs else 2
    pairs = 2 * _pairs_per_head(config)
    return LinearCost(
        head_size * ((2 + pairs) * hidden + (1 + pairs) * config.attention_bias),
        (rows + 1) * hidden + rows * config.feed_forward_bias,
        hidden * (config.attention_bias + config.feed_forward_bias + norms * (1 + config.norm_bias))
        + 2 * head_size * config.query_key_norm,
    )


def _pairs_per_head(config: SparseCSEConfig) -> float:
    """How many keys and values, each of both, there are for a head in the mean of the layers."""
    heads = sum(map(len, config.key_value_heads or []))
    return sum(len(set(sources)) for sources in config.key_value_heads) / heads if heads else 1


def multiply_add_cost(config: SparseCSEConfig, average_length: int = AVERAGE_LENGTH) -> LinearCost:
    """Multiply-adds of the layers' matrix products per token of a sentence of that length.

    A head has four projections, or its part of those of keys and values, and for each token of the sentence, also where
    it does not see all, a product with its key and one with its value.
    """
    projections, head_size = 2 + 2 * _pairs_per_head(config), config.attention_head_size
    return LinearCost(
        projections * config.hidden_size * head_size + 2 * average_length * head_size,
        (2 + config.gated) * config.hidden_size,
    )


def removed_fraction(model: CostModel, before: Sequence[tuple[int, int]], after: Sequence[tuple[int, int]]) -> float:
    """The fraction of the layers' cost that is gone; 0 where they cost nothing."""
    whole = model.cost(before)
    return 1 - model.cost(after) / whole if whole else 0.0


def select_by_cost(scores: Scores, model: CostModel, sparsity: float, limits: Limits | None = None) -> Mask:
    """Remove the heads and neurons with the least sum of losses after which the layers cost at most 1 - sparsity.

    Within a kind the lowest-scored leave first, neurons in chunks of `limits.align`. For every number of heads that may
    leave, bisection finds the least number of chunks that meets the budget, and the best of these pairs is taken; of
    equals the one with fewer heads gone. So it is exact among the cuts that follow the two orders, with no more neurons
    gone than are needed.

    Args:
        scores: of which `Scores.losses` says how heads weigh against neurons.
        model: what layers cost.
        sparsity: the fraction of the cost to remove, 0 to 1 (1 excluded).

    Raises:
        InputError: a sparsity out of range, or one that cannot be met with what may leave.
    """
    check_fraction("sparsity", sparsity)
    heads, neurons = orders(scores.losses(), limits or Limits())

    def cost(head_steps: int, neuron_steps: int) -> float:
        left = zip(heads.left[head_steps].tolist(), neurons.left[neuron_steps].tolist(), strict=True)
        return model.cost(list(left))

    whole = cost(0, 0)
    target = (1 - sparsity + _ROUNDING) * whole
    if (least := cost(heads.steps, neurons.steps)) > target:
        # Rounded down, so that the number in the message can be given.
        reach = math.floor((1 - least / whole) * 10000) / 10000
        raise InputError(
            f"`sparsity` {sparsity:g} cannot be met: all that may leave, heads and neurons, is {reach:.4f} of what "
            f"the layers cost; give at most that, or protect less."
        )

    def meets(head_steps: int, neuron_steps: int) -> bool:
        return cost(head_steps, neuron_steps) <= target

    best: tuple[float, int, int] | None = None
    most = neurons.steps
    for head_steps in range(heads.steps + 1):
        if not meets(head_steps, most):
            continue
        # With more heads gone, never more neurons are needed than before.
        most = bisect_left(range(most), True, key=partial(meets, head_steps))
        candidate = float(heads.scores[head_steps] + neurons.scores[most]), head_steps, most
        if best is None or candidate[0] < best[0]:
            best = candidate
    assert best is not None
    return Mask(heads.after(best[1]), neurons.after(best[2]))


def closed_form(encoder: Encoder, average_length: int) -> dict[str, CostModel]:
    """The cost models that need no measurement, by the names of `COSTS`."""
    config = encoder.model.config
    return {"parameters": parameter_cost(config), "multiply-adds": multiply_add_cost(config, average_length)}


def reached(mask: Mask, models: Mapping[str, CostModel], *, of_all: bool = False) -> dict[str, Any]:
    """The fractions that a mask removes: heads, neurons, and by each cost model.

    of_all: of all layers; by default of those that stay.
    """
    layers = mask.kept_layers()
    after = [mask.kept()[layer] for layer in layers]
    before = mask.sizes() if of_all else [mask.sizes()[layer] for layer in layers]
    found: dict[str, Any] = {}
    for i, kind in enumerate(("heads", "neurons")):
        whole = sum(sizes[i] for sizes in before)
        found[kind] = 1 - sum(sizes[i] for sizes in after) / whole if whole else 0.0
    found |= {name: removed_fraction(model, before, after) for name, model in models.items()}
    table = models.get("latency")
    if table is not None:
        rest: float = getattr(table, "rest_seconds", 0.0)
        found["seconds_per_pass"] = [rest + table.cost(layers) for layers in (before, after)]
    return found
