"""The options that say what to remove, said once for `prune` and `run`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsecse.cli import options
from sparsecse.cli.groups import takes

if TYPE_CHECKING:
    from sparsecse.pruning.recipe import Recipe


@dataclass(frozen=True)
class RecipeOptions:
    """What the command line says of a cut."""

    sparsity: options.Sparsity = None
    tolerance: options.Tolerance = 0.1
    budget: options.BudgetOf = "structures"
    head_sparsity: options.HeadSparsity = None
    neuron_sparsity: options.NeuronSparsity = None
    keep_heads: options.KeepHeads = None
    keep_neurons: options.KeepNeurons = None
    align: options.Align = 1
    protect: options.Protect = None
    average_length: options.AverageLength = 20
    latency_precision: options.LatencyPrecision = "float32"
    portable: options.Portable = False
    layers: options.Layers = None
    vocab: options.Vocab = None
    vocab_size: options.VocabSize = None
    reconstruct: options.Reconstruct = False
    rounds: options.Rounds = 1
    schedule: options.Schedule = "linear"

    def cut(self) -> Recipe:
        """What to remove; `InputError` where options contradict each other."""
        from sparsecse.pruning.recipe import Recipe

        sparsity = options.fraction_or_auto(self.sparsity, "--sparsity")
        layers = options.layers_or_auto(self.layers)
        return Recipe(
            sparsity if isinstance(sparsity, float) else None,
            self.head_sparsity,
            self.neuron_sparsity,
            self.keep_heads,
            self.keep_neurons,
            self.portable,
            layers if isinstance(layers, tuple) else None,
            vocab=tuple(self.vocab or ()),
            vocab_size=self.vocab_size,
            layers_compete=layers == "auto",
            cost=self.budget,
            align=self.align,
            protect=options.split_list(self.protect) or (),
            average_length=self.average_length,
            latency_precision=self.latency_precision,
            reconstruct=self.reconstruct,
            auto_tolerance=self.tolerance if sparsity == "auto" else None,
            rounds=self.rounds,
            schedule=self.schedule,
        )


def takes_recipe_options(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put every option of `RecipeOptions` in the place of a command's parameter `cut`; see `groups.takes`."""
    return takes("cut", RecipeOptions, **defaults)
