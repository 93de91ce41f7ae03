"""In which order structures may leave: the lowest-scored first, in chunks of a stated size, protected ones never."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sparsecse.errors import InputError
from sparsecse.scoring import Scores


@dataclass(frozen=True)
class Limits:
    """What a budget may not do.

    align: the neurons that stay in a layer are a multiple of it, or all that the layer has.
    protected: (layer, head) for a head that never leaves, (layer, None) for all heads and neurons of a layer.
    """

    align: int = 1
    protected: frozenset[tuple[int, int | None]] = frozenset()

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]], align: int = 1, protect: Sequence[str] = ()) -> Limits:
        """Limits as the command line writes them: "5" protects layer 5, "5.3" head 3 of layer 5.

        Args:
            sizes: for each layer its (heads, neurons).

        Raises:
            InputError: something else, or a layer or head that the model does not have.
        """
        protected: set[tuple[int, int | None]] = set()
        for text in protect:
            match = re.fullmatch(r"(\d+)(?:\.(\d+))?", text)
            if match is None:
                raise InputError(f"`protect` {text} names no layer or head; write 5 for layer 5, 5.3 for its head 3.")
            layer, head = int(match[1]), None if match[2] is None else int(match[2])
            if layer >= len(sizes):
                raise InputError(f"`protect` {text}: there is no layer {layer}; the layers are 0 to {len(sizes) - 1}.")
            if head is not None and head >= sizes[layer][0]:
                raise InputError(f"`protect` {text}: layer {layer} has {sizes[layer][0]} heads, counted from 0.")
            protected.add((layer, head))
        return cls(align, frozenset(protected))

    def of_layers(self, layers: Sequence[int]) -> Limits:
        """The limits of some layers only, numbered in their order; `InputError` where a protected one is left out."""
        numbers = {layer: i for i, layer in enumerate(layers)}
        for layer, _ in sorted(self.protected, key=lambda item: item[0]):
            if layer not in numbers:
                raise InputError(
                    f"`protect` names layer {layer}, which `layers` takes out; leave it out of one of them."
                )
        return Limits(self.align, frozenset((numbers[layer], head) for layer, head in self.protected))

    def fixed_heads(self, layer: int, count: int) -> torch.Tensor:
        """[count], true for the layer's heads that never leave."""
        whole = (layer, None) in self.protected
        return torch.tensor([whole or (layer, head) in self.protected for head in range(count)], dtype=torch.bool)

    def fixed_neurons(self, layer: int, count: int) -> torch.Tensor:
        """[count], true for the layer's neurons that never leave."""
        return torch.full((count,), (layer, None) in self.protected)


@dataclass(frozen=True)
class Order:
    """The steps in which the structures of one kind leave, and what is left after each.

    sizes: of each layer.
    structures: [removable], positions in all layers one after another, those that leave first first.
    ends: [steps + 1], how many have left after so many steps; ends[0] is 0.
    left: [steps + 1, layers], how many of each layer are then left.
    scores: [steps + 1], float64, the sum of the scores of those that have left.
    """

    sizes: tuple[int, ...]
    structures: torch.Tensor
    ends: torch.Tensor
    left: torch.Tensor
    scores: torch.Tensor

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return len(self.ends) - 1

    def after(self, steps: int) -> tuple[torch.Tensor, ...]:
        """For each layer a boolean tensor, true for what stays after that many steps."""
        stays = torch.ones(sum(self.sizes), dtype=torch.bool)
        stays[self.structures[: int(self.ends[steps])]] = False
        return stays.split(self.sizes)

    def nearest(self, count: int) -> int:
        """The steps after which the number that has left is nearest to `count`; of two, the fewer steps."""
        return int((self.ends - count).abs().argmin())


def order_of(layers: Sequence[torch.Tensor], fixed: Sequence[torch.Tensor], chunk: int = 1) -> Order:
    """The order for one kind of structure.

    In each layer the lowest-scored leave first, `chunk` at a time; where the layer's size is no multiple of `chunk`,
    the first step takes the remainder. The steps of all layers are ranked by the mean score of what leaves. Ties go to
    the earlier layer and the lower index, so that the same scores always give the same order.

    Args:
        layers: for each layer the scores, [structures of the layer].
        fixed: for each layer, true for what never leaves.
    """
    sizes = tuple(len(layer) for layer in layers)
    means, sums, lengths, owners, members, chunk_of = [], [], [], [], [], []
    offset = chunks = 0
    for layer, (scores, never) in enumerate(zip(layers, fixed, strict=True)):
        scores = scores.double().cpu()
        free = (~never).nonzero().flatten()
        ranked = free[torch.sort(scores[free], stable=True).indices]
        ends = torch.tensor(list(range(len(scores) % chunk or chunk, len(ranked) + 1, chunk)), dtype=torch.long)
        if len(ends):
            own = torch.diff(ends, prepend=ends.new_zeros(1))
            ranked = ranked[: int(ends[-1])]
            numbers = torch.arange(len(own)).repeat_interleave(own)
            total = torch.zeros(len(own), dtype=torch.float64).index_add_(0, numbers, scores[ranked])
            # Equal scores can have means that differ in the last bit; a layer's own order must survive the ranking.
            means.append((total / own).cummax(0).values)
            sums.append(total)
            lengths.append(own)
            owners.append(torch.full((len(own),), layer))
            members.append(ranked + offset)
            chunk_of.append(numbers + chunks)
            chunks += len(own)
        offset += len(scores)
    before = torch.tensor(sizes, dtype=torch.long)
    if not chunks:
        nothing = torch.zeros(1, dtype=torch.long)
        return Order(sizes, nothing[:0], nothing, before[None], torch.zeros(1, dtype=torch.float64))
    sequence = torch.sort(torch.cat(means), stable=True).indices
    rank = torch.empty_like(sequence)
    rank[sequence] = torch.arange(chunks)
    structures = torch.cat(members)[torch.sort(rank[torch.cat(chunk_of)], stable=True).indices]
    length = torch.cat(lengths)[sequence]
    gone = torch.zeros(chunks + 1, len(sizes), dtype=torch.long)
    gone[torch.arange(1, chunks + 1), torch.cat(owners)[sequence]] = length
    return Order(
        sizes,
        structures,
        torch.cat([length.new_zeros(1), length.cumsum(0)]),
        before - gone.cumsum(0),
        torch.cat([torch.zeros(1, dtype=torch.float64), torch.cat(sums)[sequence].cumsum(0)]),
    )


def orders(scores: Scores, limits: Limits) -> tuple[Order, Order]:
    """The orders in which heads, one by one, and neurons, in chunks of `limits.align`, leave."""
    sizes = scores.sizes()
    heads = order_of(scores.heads, [limits.fixed_heads(i, heads) for i, (heads, _) in enumerate(sizes)])
    fixed = [limits.fixed_neurons(i, neurons) for i, (_, neurons) in enumerate(sizes)]
    return heads, order_of(scores.neurons, fixed, limits.align)
