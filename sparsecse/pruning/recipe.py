"""What a recipe says: how much leaves, what may not, whole layers, the vocabulary, and how what is left is repaired."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sparsecse.errors import InputError
from sparsecse.guard import check_tolerance, tolerance_setting
from sparsecse.settings import at_least, check_fraction, choose, documented, setting, split_list

COSTS = ("structures", "parameters", "multiply-adds", "latency")
"""What a sparsity can be a fraction of; "structures" counts heads and neurons apart (`masks.Budget`)."""

AVERAGE_LENGTH = 20
"""Tokens of an average sentence, special tokens included: about that of the STS sets."""

SCHEDULES = ("linear", "cubic")
WITHIN_LAYERS = ("scores", "error")
LATENCY_PRECISIONS = ("float32", "bfloat16", "int8")


def _fraction_or_auto(text: str) -> float | str:
    """`0.2` as a number, `auto` as it is."""
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise InputError(f"`sparsity` {text} is neither a fraction such as 0.2 nor auto.") from None


def _layers_or_auto(text: str) -> tuple[int, ...] | str:
    """`0,2,4` as layer numbers, `auto` as it is."""
    try:
        return text if text == "auto" else tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"`layers` {text} is neither a list of layer numbers such as 0,2,4 nor auto.") from None


@documented
@dataclass(frozen=True)
class Recipe:
    """What to remove, and how; fields of the same meaning are explained in `masks.Budget.of` and `order.Limits.of`.

    `sparsity` "auto" sets `auto`: it is chosen on dev (`ensemble.choose_sparsity`). `layers` "auto" sets
    `layers_compete`: whole layers compete with heads and neurons (`layers.search_layers`), and the budget is one of the
    whole model, layers that leave included.
    """

    sparsity: float | None = setting(
        None,
        "Fraction to remove of the heads and of the neurons, or of what `cost` names; or auto, the largest at which no "
        "kind of dev set falls by more than `tolerance`.",
        parse=_fraction_or_auto,
        metavar="FRACTION|auto",
    )
    auto: bool = False
    tolerance: float = tolerance_setting()
    cost: str = setting(
        "structures",
        "What `sparsity` is a fraction of: structures (heads and neurons apart), or what the encoder's layers cost, "
        "embeddings not counted: parameters, multiply-adds, latency (timed on this machine).",
        "--budget",
    )
    head_sparsity: float | None = setting(None, "Fraction of the heads to remove.")
    neuron_sparsity: float | None = setting(None, "Fraction of the neurons to remove.")
    keep_heads: int | None = setting(None, "How many heads stay, over all layers.")
    keep_neurons: int | None = setting(None, "How many neurons stay, over all layers.")
    align: int = setting(
        1,
        "Neurons leave in chunks, so that each layer keeps a multiple of this, or all it has; the count removed is the "
        "nearest such one.",
    )
    protect: tuple[str, ...] = setting(
        (),
        "Layers and heads that never leave: 0,5.3 is layer 0 and head 3 of layer 5.",
        parse=split_list,
        text=lambda value: ",".join(value) or None,
    )
    average_length: int = setting(AVERAGE_LENGTH, "Tokens of a sentence, for multiply-adds and latency.")
    latency_precision: str = setting(
        "float32", "Precision in which `cost` latency times the layers: float32, bfloat16, int8."
    )
    portable: bool = setting(
        False,
        "Remove neurons only, equally many in every layer: the packed folder is a stock checkpoint.",
    )
    layers: tuple[int, ...] | None = setting(
        None,
        "Layers that stay, from 0: 0,2,4; the others leave whole. auto: whole layers compete with heads and neurons "
        "for `sparsity`, by dev score.",
        parse=_layers_or_auto,
    )
    layers_compete: bool = False
    vocab: tuple[str, ...] = setting((), "Text file (also .gz) whose tokens stay; give it more than once.")
    vocab_size: int | None = setting(None, "Keep at most that many tokens, the most useful.")
    vocab_scripts: tuple[str, ...] = setting(
        (),
        "Scripts, comma-separated, all of whose tokens stay besides those of `vocab`: latin, cyrillic, greek, cjk, ...",
        parse=split_list,
        text=lambda value: ",".join(value) or None,
    )
    reconstruct: bool = setting(
        False, "Fit the output projections again in closed form after the pruning, where dev gains from it."
    )
    within_layers: str = setting(
        "scores",
        "Which of a layer's heads and neurons leave, once the scores have said how many: those of the lowest scores, "
        "or error, those that `reconstruct` can best make up for.",
    )
    rounds: int = setting(1, "Rounds in which the budget is spent, with new scores (and reconstruction) between.")
    schedule: str = setting("linear", "What each round removes: linear (alike) or cubic (most at first).")

    def __post_init__(self) -> None:
        said: Any = {"sparsity": self.sparsity, "layers": self.layers}
        if said["sparsity"] == "auto":
            object.__setattr__(self, "sparsity", None)
            object.__setattr__(self, "auto", True)
        if said["layers"] == "auto":
            object.__setattr__(self, "layers", None)
            object.__setattr__(self, "layers_compete", True)
        check_tolerance(self.tolerance)
        self._check_budget()
        if self.vocab_size is not None and not self.vocab:
            raise InputError("`vocab_size` needs the corpus whose tokens stay; give `vocab`, text files.")
        if self.vocab_scripts and not self.vocab:
            raise InputError("`vocab_scripts` adds to the tokens of a corpus; give `vocab`, text files.")
        others = (self.head_sparsity, self.keep_heads, self.keep_neurons)
        if self.portable and (any(value is not None for value in others) or self.fraction is None):
            raise InputError("`portable` takes `sparsity` (or `neuron_sparsity`) alone: it removes neurons, no heads.")
        if self.layers_compete and (not self.needs_scores or self.portable):
            raise InputError(
                "`layers_compete` spends `sparsity` (or what is said of one kind) on whole layers too; give one, and "
                "leave out `portable`."
            )
        at_least("rounds", self.rounds, 1)
        choose("schedule", self.schedule, SCHEDULES)
        choose("within_layers", self.within_layers, WITHIN_LAYERS)
        if self.within_layers == "error" and (self.rounds > 1 or not self.reconstruct):
            raise InputError(
                "`within_layers` error chooses by what `reconstruct` makes up for, once; add `reconstruct`, and leave "
                "out `rounds`."
            )
        apart = self.cost == "structures" and self.align == 1 and not self.protect and not self.vocab
        whole = self.layers is not None or self.layers_compete
        if self.rounds > 1 and (not self.needs_scores or self.portable or whole or not apart):
            raise InputError(
                "`rounds` spends `sparsity` (or what is said of one kind) in rounds; leave out `cost`, `align`, "
                "`protect`, `portable`, `layers` and `vocab`."
            )

    def _check_budget(self) -> None:
        choose("cost", self.cost, COSTS)
        for name in ("sparsity", "head_sparsity", "neuron_sparsity"):
            if (fraction := getattr(self, name)) is not None:
                check_fraction(name, fraction)
        at_least("align", self.align, 1)
        at_least("average_length", self.average_length, 1)
        if self.vocab_size is not None:
            at_least("vocab_size", self.vocab_size, 1)
        choose("latency_precision", self.latency_precision, LATENCY_PRECISIONS)
        others = (self.head_sparsity, self.neuron_sparsity, self.keep_heads, self.keep_neurons)
        if self.cost != "structures" and (self.sparsity is None or self.portable or any(x is not None for x in others)):
            raise InputError(
                f"`cost` {self.cost} takes `sparsity` alone: heads and neurons compete for it; "
                f"leave out `portable` and what is said of one kind."
            )
        if self.portable and self.protect:
            raise InputError(
                "`portable` keeps all layers alike, so that `protect` has no place in it; drop one of them."
            )
        if not self.needs_scores and (self.align != 1 or self.protect):
            raise InputError("`align` and `protect` say how a budget is met, and there is none; give `sparsity`.")

    @property
    def fraction(self) -> float | None:
        """The fraction of neurons that `portable` removes."""
        return self.sparsity if self.neuron_sparsity is None else self.neuron_sparsity

    @property
    def budget(self) -> dict[str, Any]:
        """Keyword arguments of `Budget.of`, as far as they were given."""
        names = ("sparsity", "head_sparsity", "neuron_sparsity", "keep_heads", "keep_neurons")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def without_reconstruction(self) -> Recipe:
        """The same without it and what goes with it."""
        return replace(self, reconstruct=False, within_layers="scores")

    @property
    def needs_scores(self) -> bool:
        return self.auto or bool(self.budget)

    @property
    def removes_nothing(self) -> bool:
        return not self.needs_scores and self.layers is None and not self.vocab

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
