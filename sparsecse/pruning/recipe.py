"""What a cut is told: the budget and its limits, whole layers, the vocabulary, and how what is left is led back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsecse.errors import InputError
from sparsecse.pruning.costs import AVERAGE_LENGTH, COSTS, CostModel, select_by_cost
from sparsecse.pruning.iterative import fractions
from sparsecse.pruning.masks import Budget, Mask, keep_layers, select, select_portable
from sparsecse.pruning.order import Limits
from sparsecse.runtime.precision import PRECISIONS
from sparsecse.scoring import Scores


@dataclass(frozen=True)
class Recipe:
    """What to remove.

    Attributes:
        sparsity ... keep_neurons: see `masks.Budget.of`.
        reconstruct: fit the output projections again after the cut, where that is better on dev.
        auto_tolerance: in place of `sparsity`: the largest one whose dev score is within that of the best.
        rounds, schedule: spend the budget in rounds with new scores before each; see `iterative.fractions`.
        portable: keep all heads and the same number of neurons in every layer, so that the result is a stock
            checkpoint.
        layers: the layers that stay; None keeps all, or leaves it to the choice of `layers_compete`.
        layers_compete: whole layers compete with heads and neurons (`layers.best_layers`): the budget is then one of
            the whole model, layers that leave included.
        vocab: text files whose tokens stay; empty keeps the whole vocabulary.
        vocab_size: at most that many tokens.
        cost: of `costs.COSTS`, what `sparsity` is a fraction of.
        align, protect: see `order.Limits.of`.
        average_length: tokens of a sentence, for multiply-adds and latency.
        latency_precision: of the timed runtime.
    """

    sparsity: float | None = None
    head_sparsity: float | None = None
    neuron_sparsity: float | None = None
    keep_heads: int | None = None
    keep_neurons: int | None = None
    portable: bool = False
    layers: tuple[int, ...] | None = None
    layers_compete: bool = False
    vocab: tuple[str, ...] = ()
    vocab_size: int | None = None
    cost: str = "structures"
    align: int = 1
    protect: tuple[str, ...] = ()
    average_length: int = AVERAGE_LENGTH
    latency_precision: str = "float32"
    reconstruct: bool = False
    auto_tolerance: float | None = None
    rounds: int = 1
    schedule: str = "linear"

    def __post_init__(self) -> None:
        self._check_budget()
        if self.vocab_size is not None and not self.vocab:
            raise InputError("--vocab-size needs the corpus whose tokens stay; give --vocab FILE.")
        others = (self.head_sparsity, self.keep_heads, self.keep_neurons)
        if self.portable and (any(value is not None for value in others) or self.fraction is None):
            raise InputError("--portable takes --sparsity (or --neuron-sparsity) alone: it removes neurons, no heads.")
        if self.layers_compete and (not self.needs_scores or self.portable):
            raise InputError(
                "--layers auto spends --sparsity (or what is said of one kind) on whole layers too; give one, and "
                "leave out --portable."
            )
        fractions(self.rounds, self.schedule)
        apart = self.cost == "structures" and self.align == 1 and not self.protect and not self.vocab
        whole = self.layers is not None or self.layers_compete
        if self.rounds > 1 and (not self.needs_scores or self.portable or whole or not apart):
            raise InputError(
                "--rounds spends --sparsity (or what is said of one kind) in rounds; leave out --budget, --align, "
                "--protect, --portable, --layers and --vocab."
            )

    def _check_budget(self) -> None:
        if self.cost not in COSTS:
            raise InputError(f"--budget '{self.cost}' is unknown; choose one of {', '.join(COSTS)}.")
        for option, value in (("--align", self.align), ("--average-length", self.average_length)):
            if value < 1:
                raise InputError(f"{option} {value} is less than 1; give a whole number above 0.")
        if self.latency_precision not in PRECISIONS:
            raise InputError(
                f"--latency-precision '{self.latency_precision}' is unknown; choose one of {', '.join(PRECISIONS)}."
            )
        others = (self.head_sparsity, self.neuron_sparsity, self.keep_heads, self.keep_neurons)
        if self.cost != "structures" and (self.sparsity is None or self.portable or any(x is not None for x in others)):
            raise InputError(
                f"--budget {self.cost} takes --sparsity alone: heads and neurons compete for it; "
                f"leave out --portable and what is said of one kind."
            )
        if self.portable and self.protect:
            raise InputError(
                "--portable keeps all layers alike, so that --protect has no place in it; drop one of them."
            )
        if not self.needs_scores and (self.align != 1 or self.protect):
            raise InputError("--align and --protect say how a budget is met, and there is none; give --sparsity.")

    @property
    def fraction(self) -> float | None:
        """The fraction of neurons that `portable` removes."""
        return self.sparsity if self.neuron_sparsity is None else self.neuron_sparsity

    @property
    def budget(self) -> dict[str, Any]:
        """Keyword arguments of `Budget.of`, as far as they were given."""
        names = ("sparsity", "head_sparsity", "neuron_sparsity", "keep_heads", "keep_neurons")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def needs_scores(self) -> bool:
        return self.auto_tolerance is not None or bool(self.budget)

    @property
    def budget_settings(self) -> dict[str, Any]:
        """What decides the mask besides the counts that it removes, and what its cost is counted by."""
        chosen: dict[str, Any] = {}
        if self.cost != "structures":
            chosen |= {"budget": self.cost, "sparsity": self.sparsity}
        if self.cost == "latency":
            chosen["latency_precision"] = self.latency_precision
        if self.align != 1:
            chosen["align"] = self.align
        if self.protect:
            chosen["protect"] = list(self.protect)
        if self.average_length != AVERAGE_LENGTH:
            chosen["average_length"] = self.average_length
        if self.layers_compete:
            chosen["layers_compete"] = True
        return chosen

    def limits(self, sizes: Sequence[tuple[int, int]]) -> Limits:
        """What the budget may not do to a model of those sizes."""
        return Limits.of(sizes, self.align, self.protect)

    def affords(
        self, layers: Sequence[int], sizes: Sequence[tuple[int, int]], models: Mapping[str, CostModel] | None = None
    ) -> bool:
        """Whether all but these layers may leave whole; the arguments are those of `mask`."""
        if self.cost == "structures":
            budget, gone = Budget.of(sizes, **self.budget), Budget.of_layers(sizes, layers)
            return gone.heads <= budget.heads and gone.neurons <= budget.neurons
        return self._sparsity_left((models or {})[self.cost], layers, sizes) >= 0

    def _sparsity_left(self, model: CostModel, layers: Sequence[int], sizes: Sequence[tuple[int, int]]) -> float:
        """The fraction of what these layers cost that the budget takes beyond the layers that leave."""
        allowed = (1 - (self.sparsity or 0.0)) * model.cost(sizes)
        own = model.cost([sizes[layer] for layer in layers])
        return 1 - allowed / own if own else 0.0

    def mask(
        self, scores: Scores | None, sizes: Sequence[tuple[int, int]], models: Mapping[str, CostModel] | None = None
    ) -> Mask:
        """The mask for a model of those sizes; without scores only whole layers leave.

        models: the cost model of `cost`, under that name, where it is not "structures".
        """
        layers = range(len(sizes)) if self.layers is None else self.layers
        whole = keep_layers(None, sizes, layers)
        if scores is None:
            return whole
        own = scores.of_layers(layers)
        limits = self.limits(sizes).of_layers(layers)
        if self.portable:
            mask = select_portable(own, self.fraction or 0.0, self.align)
        elif self.cost == "structures":
            if self.layers_compete:
                budget = Budget.of(sizes, **self.budget).less(Budget.of_layers(sizes, layers))
            else:
                budget = Budget.of(own.sizes(), **self.budget)
            mask = select(own, budget, limits)
        else:
            model, sparsity = (models or {})[self.cost], self.sparsity or 0.0
            if self.layers_compete:
                sparsity = max(0.0, self._sparsity_left(model, layers, sizes))
            mask = select_by_cost(own, model, sparsity, limits)
        return keep_layers(mask, sizes, layers)
