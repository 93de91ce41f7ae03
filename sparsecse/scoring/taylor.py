"""The paper's score: how much each head and neuron contributes to alignment and uniformity, E_x |dL / dg|."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sparsecse import kernels
from sparsecse.datasets import PairSet
from sparsecse.encoders import Encoder, PackedBatch
from sparsecse.errors import InputError
from sparsecse.gates import Gates, gated
from sparsecse.kernels.dispatch import fast_bfloat16
from sparsecse.objectives import alignment
from sparsecse.scoring import memory
from sparsecse.scoring.scores import Scores


@dataclass(frozen=True)
class Objective:
    """L = weight * align + (1 - weight) * uniform, over the whole set.

    alignment_weight: lambda, 0 to 1.
    temperature: t of the uniformity's exp(-t * squared distance).
    positive_minimum: gold similarity (0 to 5) from which a pair counts as positive.
    """

    alignment_weight: float = 0.5
    temperature: float = 2.0
    positive_minimum: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.alignment_weight <= 1:
            raise InputError(f"--lambda {self.alignment_weight} is outside 0 to 1.")


def upstream_gradient(
    vectors: torch.Tensor, positives: torch.Tensor, objective: Objective
) -> tuple[torch.Tensor, dict[str, float]]:
    """dL/df(x) of every sentence for the objective over the whole set, and the values of its parts.

    Args:
        vectors: [N, d], not necessarily of unit length.
        positives: [P, 2] rows of positive pairs.

    Returns:
        gradient [N, d], and align, uniform and objective.
    """
    leaf = vectors.detach().requires_grad_()
    unit = F.normalize(leaf, dim=-1)
    align = alignment(unit[positives[:, 0]], unit[positives[:, 1]])
    uniform = kernels.uniformity(unit, t=objective.temperature)
    loss = objective.alignment_weight * align + (1 - objective.alignment_weight) * uniform
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient, {"alignment": align.item(), "uniformity": uniform.item(), "objective": loss.item()}


PRECISIONS = ("auto", "float32", "bfloat16")


def check_precision(precision: str) -> None:
    """Raise `InputError` for a word that is not one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise InputError(f"--precision '{precision}' is unknown; choose one of {', '.join(PRECISIONS)}.")


def resolved_precision(encoder: Encoder, precision: str = "auto") -> str:
    """What an encoder is scored in, "float32" (its own precision, whatever that is) or "bfloat16".

    auto is bfloat16 for a float32 encoder on a CPU that multiplies it well faster (AMX, for one).
    Weights and activations are bfloat16 then; sums inside operators, the objective and the totals are not. On
    all-MiniLM-L6-v2 and STS-B dev the ranks of heads and of neurons correlate with float32's by more than 0.9998.
    """
    check_precision(precision)
    if precision != "auto":
        return precision
    could = encoder.model.dtype == torch.float32 and encoder.device.type == "cpu"
    return "bfloat16" if could and fast_bfloat16() else "float32"


def contributions(
    encoder: Encoder,
    pairs: PairSet,
    objective: Objective | None = None,
    *,
    batch_size: int = 64,
    precision: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Mean over sentences of |dL/dg| for every gate, each sentence having its own copy of the gates.

    The uniformity is the exact one over all pairs of distinct sentences: the vectors of all come first, then the
    objective's gradient with respect to each, then one backward pass per batch that carries it to the gates (gradient
    caching, Gao et al. 2021). As many forward passes as there is memory for are kept for that; the other sentences
    pass forward twice. The result does not depend on `batch_size` and memory, up to rounding.

    Args:
        encoder: the dense (or already pruned) encoder; is left as it is.
        pairs: graded pairs; their distinct sentences are the set, those at or above the minimum the positives.
        batch_size: sentences of average length in a pass; see `Encoder.batches`.
        precision: one of `PRECISIONS`; see `resolved_precision`.
        progress: called with (sentences done, sentences in all); each sentence is passed over twice.
    """
    objective = objective or Objective()
    sentences = pairs.sentences()
    positives = torch.tensor(pairs.positives(objective.positive_minimum))
    token_ids = encoder.tokenize(sentences)

    def report(done: int) -> None:
        if progress is not None:
            progress(done, 2 * len(sentences))

    sums = [torch.zeros(n, dtype=torch.float64, device=encoder.device) for n in _gate_sizes(encoder)]
    vectors = torch.empty(len(sentences), encoder.model.config.hidden_size, device=encoder.device)
    with _frozen(encoder, resolved_precision(encoder, precision)) as frozen:
        kept, others, done = [], [], 0
        space = memory.room(encoder.device) // memory.bytes_per_token(frozen.model)
        for rows, batch in frozen.batches(token_ids, batch_size):
            space -= len(batch.input_ids)
            if space < 0:
                others += rows.tolist()
                continue
            kept.append(_Pass.forward(frozen, rows, batch))
            vectors[kept[-1].rows] = kept[-1].output.detach().float()
            done += len(batch)
            report(done)
        other_ids, first = [token_ids[row] for row in others], done
        other_rows = torch.tensor(others, dtype=torch.long, device=encoder.device)
        vectors[other_rows] = frozen.encode_ids(
            other_ids, batch_size=batch_size, progress=lambda passed, _: report(first + passed)
        )

        upstream, values = upstream_gradient(vectors, positives.to(encoder.device), objective)
        batches = frozen.batches(other_ids, batch_size)
        second = (_Pass.forward(frozen, other_rows[rows], batch) for rows, batch in batches)
        done = len(sentences)
        for one in itertools.chain(_taken_out(kept), second):
            one.backward(upstream, sums)
            done += len(one.rows)
            report(done)
    means = [total_of_gate / len(sentences) for total_of_gate in sums]
    layers = len(means) // 2
    return Scores(tuple(means[:layers]), tuple(means[layers:]), values)


@dataclass(frozen=True)
class _Pass:
    """A batch's forward pass, ready for its backward pass.

    rows: [sentences], their positions in the set; gates: a copy for each; output: [sentences, hidden_size].
    """

    rows: torch.Tensor
    gates: Gates
    output: torch.Tensor

    @classmethod
    def forward(cls, encoder: Encoder, rows: torch.Tensor, batch: PackedBatch) -> _Pass:
        gates = Gates.ones(encoder.model, batch=len(batch))
        with gated(encoder.model, gates, batch.cu_lengths):
            return cls(rows.to(encoder.device), gates, encoder.forward_packed(batch))

    def backward(self, upstream: torch.Tensor, sums: list[torch.Tensor]) -> None:
        """Add the sentences' |dL/dg| to the sums, one per tensor of gates; frees what the forward pass kept."""
        used = [gate for gate in self.gates.tensors() if gate.shape[-1]]
        gradients = iter(torch.autograd.grad(self.output, used, upstream[self.rows].to(self.output.dtype)))
        for total in sums:
            if len(total):
                total += next(gradients).abs().sum(dim=0, dtype=torch.float64)


def _taken_out(passes: list[_Pass]) -> Iterator[_Pass]:
    while passes:
        yield passes.pop()


def _gate_sizes(encoder: Encoder) -> list[int]:
    sizes = encoder.model.config.layer_sizes()
    return [heads for heads, _ in sizes] + [neurons for _, neurons in sizes]


@contextlib.contextmanager
def _frozen(encoder: Encoder, precision: str) -> Iterator[Encoder]:
    """The encoder without dropout and without gradients for its weights; a copy where its numbers are to be shorter.

    Without gradients for the weights nothing is kept for them during the forward pass.
    """
    if precision == "bfloat16":
        # Cast once: autocast would cast every weight again for every batch.
        model = copy.deepcopy(encoder.model)
        encoder = Encoder(model, encoder.tokenizer, encoder.settings, encoder.source).to(torch.bfloat16)
    was_training = encoder.training
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    try:
        yield encoder.eval().requires_grad_(False)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        encoder.train(was_training)
