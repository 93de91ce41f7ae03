"""A score for every head and neuron, and the file that holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sparsecse.errors import InputError
from sparsecse.files import atomic_file

COMBINES = ("sums", "squares", "order")


@dataclass(frozen=True)
class Scores:
    """Higher is more useful. Among heads, and among neurons, only the order matters, unless the kinds are weighed.

    Attributes:
        heads, neurons: one float tensor per layer, [heads of the layer] and [neurons of the layer].
        values: single numbers measured on the way (objective, alignment, uniformity), for the record.
        combine: of `COMBINES`, how the loss of several structures follows from their scores; see `losses`.
    """

    heads: tuple[torch.Tensor, ...]
    neurons: tuple[torch.Tensor, ...]
    values: Mapping[str, float] = field(default_factory=dict)
    combine: str = "squares"

    def __post_init__(self) -> None:
        if self.combine not in COMBINES:
            raise InputError(f"Scores that combine by '{self.combine}' are unknown; score again with this version.")
        for kind, tensors in (("heads", self.heads), ("neurons", self.neurons)):
            for layer, tensor in enumerate(tensors):
                if not torch.isfinite(tensor).all():
                    raise InputError(
                        f"The scores of the {kind} of layer {layer} hold NaN or infinity; score again, "
                        f"and check the model's weights if it happens again."
                    )

    @classmethod
    def of(
        cls,
        tensors: Sequence[torch.Tensor],
        values: Mapping[str, float] | None = None,
        *,
        combine: str = "squares",
    ) -> Scores:
        """From one tensor per layer for heads, followed by one per layer for neurons."""
        layers = len(tensors) // 2
        return cls(tuple(tensors[:layers]), tuple(tensors[layers:]), values or {}, combine)

    def of_layers(self, layers: Sequence[int]) -> Scores:
        """Those of some layers only."""
        heads, neurons = (tuple(kind[layer] for layer in layers) for kind in (self.heads, self.neurons))
        return replace(self, heads=heads, neurons=neurons)

    def losses(self) -> Scores:
        """What each structure costs when it leaves, in float64, so that a set of heads and neurons costs the sum.

        Each kind's order stays that of the scores. By `combine`:

        - "sums": the scores themselves, since they are changes or squares of one quantity.
        - "squares": their squares. The scores are sizes whose signs are not known; contributions of unrelated signs
          cancel, and their sum grows like the root of the sum of squares, so that thousands of neurons weigh less than
          the sum of their scores says.
        - "order": their squares, divided by the sum over the kind. The scores of the kinds have no unit in common.
        """
        kinds = [[own.double() for own in kind] for kind in (self.heads, self.neurons)]
        if self.combine != "sums":
            kinds = [[own * own.abs() for own in kind] for kind in kinds]
        if self.combine == "order":
            totals = [sum(float(own.abs().sum()) for own in kind) or 1.0 for kind in kinds]
            kinds = [[own / total for own in kind] for kind, total in zip(kinds, totals, strict=True)]
        heads, neurons = map(tuple, kinds)
        return Scores(heads, neurons, self.values, "sums")

    def tensors(self) -> list[torch.Tensor]:
        """One tensor per layer for heads, followed by one per layer for neurons, as `of` takes them."""
        return [*self.heads, *self.neurons]

    def sizes(self) -> list[tuple[int, int]]:
        """For each layer its (number of heads, number of neurons)."""
        return [(len(heads), len(neurons)) for heads, neurons in zip(self.heads, self.neurons, strict=True)]

    def save(self, path: Path, metadata: Mapping[str, Any] | None = None) -> None:
        """Write `heads.<layer>` and `neurons.<layer>` as float32 safetensors, `metadata` as JSON in its header."""
        tensors = {f"heads.{i}": tensor for i, tensor in enumerate(self.heads)}
        tensors |= {f"neurons.{i}": tensor for i, tensor in enumerate(self.neurons)}
        own = {"values": dict(self.values), "combine": self.combine}
        # One entry: safetensors writes several in a random order, and the file's hash is an input of later stages.
        header = {"sparsecse": json.dumps(own | dict(metadata or {}))}
        with atomic_file(path) as temporary:
            save_file({name: t.float().cpu().contiguous() for name, t in tensors.items()}, temporary, header)

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what `save` wrote; a missing, truncated or foreign file raises `InputError`."""
        if not path.exists():
            raise InputError(f"{path} does not exist; run `sparsecse score` first.")
        try:
            with safe_open(path, framework="pt") as file:
                names = set(file.keys())
                layers = len(names) // 2
                heads = tuple(file.get_tensor(f"heads.{i}") for i in range(layers))
                neurons = tuple(file.get_tensor(f"neurons.{i}") for i in range(layers))
                header = json.loads((file.metadata() or {}).get("sparsecse", "{}"))
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            raise InputError(
                f"{path} is not a score file that can be read ({error}); run `sparsecse score` again."
            ) from None
        return cls(heads, neurons, header.get("values", {}), header.get("combine", "squares"))


def unit_layers(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Each tensor divided by its L2 norm; one of zeros, or of nothing, stays as it is."""
    norms = [tensor.norm() for tensor in tensors]
    return [tensor / norm if norm > 0 else tensor for tensor, norm in zip(tensors, norms, strict=True)]
