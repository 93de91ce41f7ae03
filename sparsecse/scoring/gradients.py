"""One pass over the data that hands every sentence's gate gradients, dL/dg_x, to whoever sums them up."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from sparsecse import distributed
from sparsecse.datasets import DropoutViews, PairSet
from sparsecse.encoders import Encoder, PackedBatch
from sparsecse.encoders.dropout import own_dropout, seeded_masks, with_dropout
from sparsecse.encoders.encoder import batch_rows
from sparsecse.encoders.gates import Gates, gated
from sparsecse.encoders.tokens import TokenIds
from sparsecse.scoring import memory
from sparsecse.scoring.precision import resolved_precision
from sparsecse.scoring.settings import Objective, ScoringSettings
from sparsecse.scoring.whole_set import upstream_gradient

_DROPOUT = 0.1  # for the views of a model that has no dropout of its own; BERT's


class Accumulator(Protocol):
    """Sums up gate gradients of sentences that come in any order, some at a time; see `accumulators`."""

    def add(self, rows: torch.Tensor, gradients: Sequence[torch.Tensor]) -> None:
        """Take in some sentences, each of the set exactly once.

        Args:
            rows: [sentences], their positions in `PairSet.sentences()`.
            gradients: [sentences, structures], float32 or more, of each layer's heads, then of each layer's neurons.
        """

    def add_up(self) -> None:
        """Add what its copies in the other processes took in, where several compute together."""


def accumulate(
    encoder: Encoder,
    pairs: PairSet,
    wanted: Mapping[Objective, Sequence[Accumulator]],
    *,
    batch_size: int = 64,
    precision: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[Objective, dict[str, float]]:
    """Give every sentence's dL/dg_x, each sentence having its own copy of the gates, to an objective's accumulators.

    The uniformity is the exact one over all pairs of distinct sentences: the vectors of all come first, then the
    objective's gradient with respect to each, then one backward pass per batch that carries it to the gates (gradient
    caching, Gao et al. 2021). As many forward passes as there is memory for are kept for that (see `memory`); the other
    sentences pass forward twice. What a sentence's gradients are does not depend on `batch_size` and memory, up to
    rounding.

    Within `distributed.workers` the batches are dealt out to the processes, each of which gives the gradients to copies
    of the accumulators. The vectors of all are exchanged once, so that the objective is that of the whole set.

    `DropoutViews` pass with dropout, its masks seeded batch by batch, so that a second pass sees those of the first:
    memory does not matter then either, while `batch_size` decides which masks a view gets.

    Args:
        encoder: the dense (or already pruned) encoder; is left as it is.
        pairs: graded pairs; their distinct sentences are the set, those at or above the minimum the positives. Or
            `DropoutViews`, whose views are the set; the uniformity is then over pairs of views of distinct sentences.
        wanted: accumulators by objective; each further objective costs a backward pass more, but no forward pass.
        batch_size: sentences of average length in a pass, fewer where they are long; see `memory.tokens_per_pass`.
        precision: one of `PRECISIONS`; see `resolved_precision`.
        progress: called with (sentences done, sentences in all); each sentence is passed over twice.

    Returns:
        for each objective its value and its parts: alignment, uniformity and objective.
    """
    return distributed.together(
        _accumulate,
        encoder,
        pairs,
        wanted,
        batch_size,
        resolved_precision(encoder, precision),  # which another machine might resolve in another way
        progress=progress,
    )


def _accumulate(
    encoder: Encoder,
    pairs: PairSet,
    wanted: Mapping[Objective, Sequence[Accumulator]],
    batch_size: int,
    precision: str,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Objective, dict[str, float]]:
    encoder.to(distributed.device(encoder.device))
    sentences = pairs.sentences()
    positives = {o: torch.tensor(pairs.positives(o.positive_minimum), device=encoder.device) for o in wanted}
    token_ids = TokenIds.of(encoder, sentences)

    def report(done: int) -> None:
        if progress is not None:
            progress(done, 2 * len(sentences))

    vectors = torch.zeros(len(sentences), encoder.dimension, device=encoder.device)
    views = pairs if isinstance(pairs, DropoutViews) else None
    with frozen_encoder(encoder, precision) as frozen, _masks(frozen, views) as masks:
        batches = batch_rows(token_ids.lengths, batch_size, memory.tokens_per_pass(frozen.model))
        numbers = distributed.own(range(len(batches)))
        whole = sum(len(batches[number]) for number in numbers)

        def packed(number: int) -> tuple[torch.Tensor, PackedBatch]:
            rows = batches[number]
            return torch.from_numpy(rows).to(encoder.device), frozen.pack(token_ids.lists(rows))

        # What is not kept is packed again: ids as tensors are some sixteen bytes a token.
        kept: list[_Pass] = []
        others: list[int] = []
        done = 0
        room = memory.room(encoder.device) // distributed.size()
        space = room // memory.bytes_per_token(frozen.model)
        for number in numbers:
            rows, batch = packed(number)
            space -= len(batch.input_ids)
            with masks(number), torch.set_grad_enabled(space >= 0):
                if space >= 0:
                    kept.append(_Pass.forward(frozen, rows, batch))
                    vectors[rows] = kept[-1].output.detach().float()
                else:
                    others.append(number)
                    vectors[rows] = frozen.forward_packed(batch).float()
            done += len(batch)
            report(len(sentences) * done // whole)
        distributed.add_up([vectors])

        def again() -> Iterator[_Pass]:
            for number in others:
                rows, batch = packed(number)
                with masks(number):
                    one = _Pass.forward(frozen, rows, batch)
                yield one

        found = {o: upstream_gradient(vectors, positives[o], o, views=views is not None) for o in wanted}
        upstream = [(found[o][0], accumulators) for o, accumulators in wanted.items()]
        done = 0
        for one in itertools.chain(_taken_out(kept), again()):
            one.backward(upstream)
            done += len(one.rows)
            report(len(sentences) * (whole + done) // whole)
    for accumulators in wanted.values():
        for accumulator in accumulators:
            accumulator.add_up()
    return {o: values for o, (_, values) in found.items()}


def accumulate_one(
    encoder: Encoder,
    pairs: PairSet,
    settings: ScoringSettings,
    accumulator: Accumulator,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """`accumulate` for one accumulator, as the settings say; returns the values of their objective."""
    values = accumulate(
        encoder,
        pairs,
        {settings.objective: [accumulator]},
        batch_size=settings.batch_size,
        precision=settings.precision,
        progress=progress,
    )
    return values[settings.objective]


@dataclass(frozen=True)
class _Pass:
    """A batch's forward pass, ready for its backward pass.

    rows: [sentences], their positions in the set; gates: a copy for each; output: [sentences, dimension].
    """

    rows: torch.Tensor
    gates: Gates
    output: torch.Tensor

    @classmethod
    def forward(cls, encoder: Encoder, rows: torch.Tensor, batch: PackedBatch) -> _Pass:
        gates = Gates.ones(encoder.model, batch=len(batch))
        with gated(encoder.model, gates, batch.cu_lengths):
            return cls(rows, gates, encoder.forward_packed(batch))

    def backward(self, upstream: Sequence[tuple[torch.Tensor, Sequence[Accumulator]]]) -> None:
        """One backward pass per upstream gradient [N, d], to its accumulators; frees what the forward pass kept."""
        gates = self.gates.tensors()
        used = [gate for gate in gates if gate.shape[-1]]
        for i, (gradient, accumulators) in enumerate(upstream, start=1):
            own = gradient[self.rows].to(self.output.dtype)
            of_used = iter(torch.autograd.grad(self.output, used, own, retain_graph=i < len(upstream)))
            gradients = [next(of_used) if gate.shape[-1] else gate.detach() for gate in gates]
            gradients = [g.to(torch.promote_types(g.dtype, torch.float32)) for g in gradients]
            for accumulator in accumulators:
                accumulator.add(self.rows, gradients)


def _taken_out(passes: list[_Pass]) -> Iterator[_Pass]:
    while passes:
        yield passes.pop()


@contextlib.contextmanager
def _masks(
    encoder: Encoder, views: DropoutViews | None
) -> Iterator[Callable[[int], contextlib.AbstractContextManager[None]]]:
    """Dropout for the views, none for graded pairs: a context for the passes of each batch, by the batch's number."""
    if views is None:
        yield lambda number: contextlib.nullcontext()
        return
    probability = views.dropout
    if probability is None and not own_dropout(encoder):
        probability = _DROPOUT
    with with_dropout(encoder, probability):
        encoder.train()  # `frozen_encoder`, within which this is, sets it back
        yield lambda number: seeded_masks(encoder.device, views.seed, number)


@contextlib.contextmanager
def frozen_encoder(encoder: Encoder, precision: str) -> Iterator[Encoder]:
    """The encoder without dropout and without gradients for its weights; a copy where its numbers are to be shorter.

    Without gradients for the weights nothing is kept for them during the forward pass.
    """
    if precision == "bfloat16":
        # Cast once: autocast would cast every weight again for every batch.
        encoder = encoder.copy().to(torch.bfloat16)
    was_training = encoder.training
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    try:
        yield encoder.eval().requires_grad_(False)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        encoder.train(was_training)
