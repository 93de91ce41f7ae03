"""The oracle that cheaper scores approximate: what truly happens when one head, or one group of neurons, is removed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import nn

from sparsecse.datasets import DropoutViews, PairSet
from sparsecse.encoders import Encoder, SparseCSEModel
from sparsecse.encoders.gates import closed
from sparsecse.errors import InputError
from sparsecse.files import write_text
from sparsecse.scoring.gradients import frozen_encoder
from sparsecse.scoring.scores import Scores
from sparsecse.scoring.settings import Objective, ScoringSettings
from sparsecse.scoring.taylor import contributions
from sparsecse.scoring.whole_set import objective_value

TABLE_FILE = "leave-one-out.jsonl"
"""One `Removal` a line, in the run directory's score folder."""

_ORDER_FILE = "taylor.safetensors"


@dataclass(frozen=True)
class Structure:
    """What leaves together: heads or neurons of one layer, by their numbers in it.

    kind: "heads" or "neurons".
    """

    kind: str
    layer: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Removal(Structure):
    """What the removal of a structure does: value without it - value with it.

    delta_objective: of L over the whole set; above 0 where the structure was useful.
    delta_spearman: of Spearman x100 over the graded pairs; below 0 where it was useful; None where it is undefined.
    """

    delta_objective: float
    delta_spearman: float | None


def single_heads(encoder: Encoder) -> list[Structure]:
    """Every head alone."""
    sizes = encoder.model.config.layer_sizes()
    return [Structure("heads", layer, (head,)) for layer, (heads, _) in enumerate(sizes) for head in range(heads)]


def neuron_groups(scores: Scores, group_size: int) -> list[Structure]:
    """Each layer's neurons in the order of their scores, `group_size` at a time; a layer's last may be fewer."""
    groups = []
    for layer, neurons in enumerate(scores.neurons):
        order = torch.sort(neurons.cpu(), stable=True).indices
        groups += [Structure("neurons", layer, tuple(part.tolist())) for part in order.split(group_size) if len(part)]
    return groups


def leave_one_out(
    encoder: Encoder,
    pairs: PairSet,
    objective: Objective,
    structures: Sequence[Structure],
    *,
    batch_size: int = 64,
    table: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Removal]:
    """Remove each structure alone and measure the whole set again; exact, in the encoder's own precision.

    The set goes through the layers before a structure's only once: what the next layer takes is kept for every token
    (4 bytes times the hidden size, 75 MB for MiniLM and STS-B dev), so that half of the layers are computed on average.

    Args:
        encoder: the dense (or already pruned) encoder; is left as it is.
        structures: taken layer by layer, whatever their order here.
        batch_size: sentences of average length in a pass.
        table: JSON-lines file of what has been measured; its rows are not measured again, new ones are added at once.
        progress: called with (structures done, structures in all).

    Yields:
        a `Removal` for each structure, layer by layer.
    """
    _refuse_views(pairs)
    known = {} if table is None else _read(table)
    positives = torch.tensor(pairs.positives(objective.positive_minimum), device=encoder.device)
    whole = _States(encoder, pairs, batch_size)

    def measure(without: Structure | None) -> tuple[float, float | None]:
        # Here and not around the loop, since between two removals the caller runs.
        with frozen_encoder(encoder, "float32"), torch.no_grad():
            return _measure(whole.vectors(without), pairs, positives, objective)

    before: tuple[float, float | None] | None = None
    for done, structure in enumerate(sorted(structures, key=lambda each: each.layer), start=1):
        removal = known.get(structure)
        if removal is None:
            before = before or measure(None)
            value, spearman = measure(structure)
            change = None if spearman is None or before[1] is None else spearman - before[1]
            removal = Removal(**asdict(structure), delta_objective=value - before[0], delta_spearman=change)
            if table is not None:
                with table.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(asdict(removal)) + "\n")
        if progress is not None:
            progress(done, len(structures))
        yield removal


def leave_one_out_scores(
    encoder: Encoder,
    pairs: PairSet,
    settings: ScoringSettings,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """L without a structure - L with it: each head alone, neurons in groups of like `contributions`.

    A group's change divided by its size is the score of each of its neurons. Within a group, each neuron is then put
    one rounding step of float32 above the one with the next lower contribution, so that ties are broken by it.
    """
    _refuse_views(pairs)
    order = _order(encoder, pairs, settings)
    structures = [*single_heads(encoder), *neuron_groups(order, settings.group_size)]
    table = None if settings.partial is None else settings.partial / TABLE_FILE
    scores = {
        "heads": [torch.zeros_like(x) for x in order.heads],
        "neurons": [torch.zeros_like(x) for x in order.neurons],
    }
    for removal in leave_one_out(
        encoder,
        pairs,
        settings.objective,
        structures,
        batch_size=settings.batch_size,
        table=table,
        progress=progress,
    ):
        share = torch.tensor(removal.delta_objective / len(removal.indices))
        step = torch.nextafter(share.abs(), torch.tensor(torch.inf)) - share.abs()
        own = share + step * torch.arange(len(removal.indices))
        target = scores[removal.kind][removal.layer]
        target[list(removal.indices)] = own.to(target)
    return Scores(tuple(scores["heads"]), tuple(scores["neurons"]), order.values, "sums")


def _refuse_views(pairs: PairSet) -> None:
    if isinstance(pairs, DropoutViews):
        raise InputError(
            f"leave-one-out needs gold scores, and {pairs.source} was given without; give graded pairs with `data`, or "
            f"another `method`."
        )


def _order(encoder: Encoder, pairs: PairSet, settings: ScoringSettings) -> Scores:
    """The contributions that neurons are grouped by; kept, since the groups must be the same after an interruption."""
    path = None if settings.partial is None else settings.partial / _ORDER_FILE
    if path is not None and path.exists():
        return Scores.load(path)
    scores = contributions(encoder, pairs, settings.objective, batch_size=settings.batch_size, precision="float32")
    if path is None:
        return scores
    scores.save(path)
    return Scores.load(path)  # a file holds float32, whose order may be another


def _read(table: Path) -> dict[Structure, Removal]:
    """The rows of a table; the last one may be half-written, after a kill, and is then taken out of the file."""
    if not table.exists():
        return {}
    whole, _, torn = table.read_text(encoding="utf-8").rpartition("\n")
    if torn:
        write_text(table, whole + "\n" if whole else "")
    try:
        rows = [json.loads(line) for line in whole.splitlines()]
        removals = [Removal(**{**row, "indices": tuple(row["indices"])}) for row in rows]
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise InputError(f"{table} is not a table of removals ({error}); delete it to measure them again.") from None
    return {Structure(each.kind, each.layer, each.indices): each for each in removals}


def _measure(
    unit: torch.Tensor, pairs: PairSet, positives: torch.Tensor, objective: Objective
) -> tuple[float, float | None]:
    """L, and Spearman x100 of the cosines with the gold scores (None where either is constant)."""
    assert pairs.scores is not None  # there are positives
    values = objective_value(unit, positives, objective)
    row = {sentence: index for index, sentence in enumerate(pairs.sentences())}
    first, second = (unit[[row[sentence] for sentence in side]] for side in (pairs.first, pairs.second))
    cosines = (first * second).sum(dim=-1)
    golds = torch.tensor(pairs.scores, dtype=torch.float64)
    if any(bool((x == x[0]).all()) for x in (cosines, golds)):
        return values["objective"], None
    return values["objective"], 100 * float(spearmanr(cosines.cpu().numpy(), golds.numpy()).statistic)


class _States:
    """A set of sentences on its way through an encoder: what the next layer takes, batch by batch.

    Packed batches keep their tokens, so that a later pass can begin at that layer.
    """

    def __init__(self, encoder: Encoder, pairs: PairSet, batch_size: int):
        token_ids = encoder.tokenize(pairs.sentences())
        self._encoder = encoder
        self._count = len(token_ids)
        self._batches = list(encoder.batches(token_ids, batch_size))
        self._layer = 0
        # Of every batch what comes out of the first layer, which first_last_avg pools, and out of the last one passed.
        self._known: list[tuple[torch.Tensor, torch.Tensor]] = []

    def vectors(self, without: Structure | None = None) -> torch.Tensor:
        """Unit vectors [N, d] in float64, in the order of `pairs.sentences()`, with a structure removed or with all."""
        model = self._encoder.model
        if without is not None:
            self._advance(without.layer)
        found = torch.empty(self._count, self._encoder.dimension, dtype=torch.float64, device=self._encoder.device)
        for number, (rows, batch) in enumerate(self._batches):
            with contextlib.ExitStack() as stack:
                if without is not None:
                    layer, indices = model.encoder.layer[without.layer], torch.tensor(without.indices)
                    size = model.config.attention_head_size
                    stack.enter_context(closed(layer, without.kind, indices, size))
                if self._layer:
                    stack.enter_context(_starting_at(model, self._layer, self._known[number]))
                found[rows.to(found.device)] = self._encoder.forward_packed(batch).double()
        return F.normalize(found, dim=-1)

    def _advance(self, layer: int) -> None:
        """Take the set on to what the given layer takes."""
        model = self._encoder.model
        while self._layer < layer:
            known = []
            for number, (_, batch) in enumerate(self._batches):
                seen: dict[str, torch.Tensor] = {}

                def keep(_: nn.Module, __: Any, output: torch.Tensor, seen: dict[str, torch.Tensor] = seen) -> None:
                    seen["output"] = output
                    raise _EnoughError

                handle = model.encoder.layer[self._layer].register_forward_hook(keep)
                with contextlib.ExitStack() as stack:
                    stack.callback(handle.remove)
                    if self._layer:
                        stack.enter_context(_starting_at(model, self._layer, self._known[number]))
                    with contextlib.suppress(_EnoughError):
                        self._encoder.forward_packed(batch)
                first = self._known[number][0] if self._layer else seen["output"]
                known.append((first, seen["output"]))
            self._known = known
            self._layer += 1


class _EnoughError(Exception):
    """Ends a forward pass whose later layers are not wanted."""


class _Known(nn.Module):
    """Stands for a layer whose output is known."""

    def __init__(self, output: torch.Tensor):
        super().__init__()
        self._output = output

    def forward(self, *_: Any) -> torch.Tensor:
        return self._output


@contextlib.contextmanager
def _starting_at(model: SparseCSEModel, layer: int, known: tuple[torch.Tensor, torch.Tensor]) -> Iterator[None]:
    """Within, the layers before `layer` give what is known: the first its own output, the others the last one's."""
    own = model.encoder.layer
    first, last = known
    stand_ins = [_Known(first), *(_Known(last) for _ in range(layer - 1))]
    model.encoder.layer = nn.ModuleList([*stand_ins, *own[layer:]])
    try:
        yield
    finally:
        model.encoder.layer = own
