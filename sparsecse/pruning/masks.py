"""Which heads and neurons stay: the one object that pruning, rewinding and packing share."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sparsecse.errors import InputError
from sparsecse.files import atomic_file
from sparsecse.pruning.order import Limits, Order, order_of, orders
from sparsecse.scoring import Scores
from sparsecse.settings import check_fraction


@dataclass(frozen=True)
class Mask:
    """True for what stays: one boolean tensor per layer, [heads of the layer] and [neurons of the layer].

    Attributes:
        layers: [layers], False for a layer that leaves as a whole, residual and LayerNorms included (its heads and
            neurons are then all False); None keeps every layer.
    """

    heads: tuple[torch.Tensor, ...]
    neurons: tuple[torch.Tensor, ...]
    layers: torch.Tensor | None = None

    def sizes(self) -> list[tuple[int, int]]:
        """For each layer the (heads, neurons) of the model that the mask fits."""
        return [(len(heads), len(neurons)) for heads, neurons in zip(self.heads, self.neurons, strict=True)]

    def kept(self) -> list[tuple[int, int]]:
        """For each layer the (heads, neurons) that stay."""
        return [(int(heads.sum()), int(neurons.sum())) for heads, neurons in zip(self.heads, self.neurons, strict=True)]

    def kept_layers(self) -> list[int]:
        """Indices of the layers that stay."""
        count = len(self.heads)
        return list(range(count)) if self.layers is None else [i for i in range(count) if self.layers[i]]

    def save(self, path: Path) -> None:
        """Write `heads.<layer>`, `neurons.<layer>` and, where layers leave, `layers` as boolean safetensors."""
        tensors = {f"heads.{i}": tensor for i, tensor in enumerate(self.heads)}
        tensors |= {f"neurons.{i}": tensor for i, tensor in enumerate(self.neurons)}
        if self.layers is not None:
            tensors["layers"] = self.layers
        with atomic_file(path) as temporary:
            save_file(tensors, temporary, {"sparsecse": json.dumps({"kept": self.kept()})})

    @classmethod
    def load(cls, path: Path) -> Mask:
        """Read what `save` wrote; a missing or broken file raises `InputError`."""
        try:
            tensors = load_file(path)
            count = sum(name.startswith("heads.") for name in tensors)
            return cls(
                tuple(tensors[f"heads.{i}"].bool() for i in range(count)),
                tuple(tensors[f"neurons.{i}"].bool() for i in range(count)),
                tensors["layers"].bool() if "layers" in tensors else None,
            )
        except (SafetensorError, OSError, KeyError) as error:
            raise InputError(f"{path} is not a mask that can be read ({error}); run `sparsecse prune` again.") from None


@dataclass(frozen=True)
class Budget:
    """How many heads and how many neurons are removed, over all layers together."""

    heads: int
    neurons: int

    @classmethod
    def of(
        cls,
        sizes: Sequence[tuple[int, int]],
        *,
        sparsity: float | None = None,
        head_sparsity: float | None = None,
        neuron_sparsity: float | None = None,
        keep_heads: int | None = None,
        keep_neurons: int | None = None,
    ) -> Budget:
        """A budget from fractions to remove or counts to keep; a kind that nothing names stays whole.

        Args:
            sizes: for each layer its (heads, neurons).
            sparsity: fraction of both kinds; round(fraction * count) of each are removed.
            head_sparsity, neuron_sparsity: the fraction of one kind, in place of `sparsity`.
            keep_heads, keep_neurons: how many stay, in place of a fraction.
        """
        if all(value is None for value in (sparsity, head_sparsity, neuron_sparsity, keep_heads, keep_neurons)):
            raise InputError(
                "Nothing says how much to prune; give `sparsity`, `head_sparsity`, `neuron_sparsity`, "
                "`keep_heads` or `keep_neurons`."
            )
        totals = sum(heads for heads, _ in sizes), sum(neurons for _, neurons in sizes)
        return cls(
            _removed("head", totals[0], sparsity, head_sparsity, keep_heads),
            _removed("neuron", totals[1], sparsity, neuron_sparsity, keep_neurons),
        )

    @classmethod
    def of_layers(cls, sizes: Sequence[tuple[int, int]], kept: Sequence[int]) -> Budget:
        """What leaves with all layers but these."""
        gone = [size for layer, size in enumerate(sizes) if layer not in kept]
        return cls(sum(heads for heads, _ in gone), sum(neurons for _, neurons in gone))

    def less(self, spent: Budget) -> Budget:
        """What is left of the budget, of neither kind less than nothing."""
        return Budget(max(0, self.heads - spent.heads), max(0, self.neurons - spent.neurons))


def _removed(kind: str, total: int, sparsity: float | None, own: float | None, keep: int | None) -> int:
    if own is not None and keep is not None:
        raise InputError(f"`{kind}_sparsity` and `keep_{kind}s` exclude each other; give one.")
    if keep is not None:
        if not 0 <= keep <= total:
            raise InputError(f"`keep_{kind}s` {keep} is outside 0 to {total}, the {kind}s that the model has.")
        return total - keep
    name, fraction = ("sparsity", sparsity) if own is None else (f"{kind}_sparsity", own)
    if fraction is None:
        return 0
    check_fraction(name, fraction)
    return round(fraction * total)


def lowest(layers: Sequence[torch.Tensor], count: int) -> tuple[torch.Tensor, ...]:
    """For each layer a boolean tensor that marks the `count` lowest scores of all layers together.

    Ties go to the earlier layer and the lower index, so that the same scores always give the same marks.
    """
    flat = torch.cat([layer.double().cpu() for layer in layers])
    marked = torch.zeros(len(flat), dtype=torch.bool)
    marked[torch.sort(flat, stable=True).indices[:count]] = True
    return marked.split([len(layer) for layer in layers])


def select(scores: Scores, budget: Budget, limits: Limits | None = None) -> Mask:
    """Keep all but the lowest-scored heads and the lowest-scored neurons that the budget removes.

    Args:
        limits: where `align` is above 1, the number of neurons removed is the nearest that whole chunks give, at most
            half a chunk from the budget's; what is protected stays.

    Raises:
        InputError: the budget removes more than may leave.
    """
    heads, neurons = orders(scores, limits or Limits())
    return Mask(
        heads.after(_steps(heads, budget.heads, "heads")), neurons.after(_steps(neurons, budget.neurons, "neurons"))
    )


def _steps(order: Order, count: int, kind: str) -> int:
    if count > (free := int(order.ends[-1])):
        total = sum(order.sizes)
        reach = math.floor(free / total * 10000) / 10000
        raise InputError(
            f"{count} of {total} {kind} cannot be removed: {free} may leave, a fraction of {reach:.4f}; "
            f"give at most that, or protect less."
        )
    return order.nearest(count)


def select_portable(scores: Scores, sparsity: float, align: int = 1) -> Mask:
    """Keep every head and, in every layer alike, all but the round(sparsity * count) lowest-scored neurons.

    What is left has the shape of a stock checkpoint, which needs no modelling code of ours. With `align` the number
    that stays is the nearest multiple of it, or all.

    Raises:
        InputError: the layers do not have equally many heads and neurons.
    """
    sizes = set(scores.sizes())
    if len(sizes) != 1:
        raise InputError("`portable` needs a model whose layers are all alike; score the dense model.")
    (_, count), *_ = sizes
    removed = Budget.of([(0, count)], neuron_sparsity=sparsity).neurons
    alone = [order_of([neurons], [torch.zeros(count, dtype=torch.bool)], align) for neurons in scores.neurons]
    steps = [order.nearest(removed) for order in alone]
    if count and steps[0] == alone[0].steps:
        raise InputError(f"`portable` with sparsity {sparsity:g} would leave no neuron; give a smaller one.")
    return Mask(
        tuple(torch.ones(len(heads), dtype=torch.bool) for heads in scores.heads),
        tuple(order.after(gone)[0] for order, gone in zip(alone, steps, strict=True)),
    )


def keep_layers(mask: Mask | None, sizes: Sequence[tuple[int, int]], layers: Sequence[int]) -> Mask:
    """Spread a mask of some layers over the whole model; the other layers leave.

    Args:
        mask: for the kept layers in their order; None keeps all that they have.
        sizes: for each layer of the whole model its (heads, neurons).
        layers: indices of the kept layers, in ascending order.

    Raises:
        InputError: no layer, one that the model does not have, or a wrong order.
    """
    if not layers or list(layers) != sorted(set(layers)) or not 0 <= min(layers) <= max(layers) < len(sizes):
        raise InputError(
            f"`layers` {','.join(map(str, layers))} must name layers from 0 to {len(sizes) - 1}, each once, ascending."
        )
    heads = [torch.zeros(count, dtype=torch.bool) for count, _ in sizes]
    neurons = [torch.zeros(count, dtype=torch.bool) for _, count in sizes]
    kept = torch.zeros(len(sizes), dtype=torch.bool)
    for position, layer in enumerate(layers):
        kept[layer] = True
        heads[layer] = torch.ones_like(heads[layer]) if mask is None else mask.heads[position]
        neurons[layer] = torch.ones_like(neurons[layer]) if mask is None else mask.neurons[position]
    return Mask(tuple(heads), tuple(neurons), None if kept.all() else kept)
