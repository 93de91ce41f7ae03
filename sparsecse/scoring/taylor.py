"""The paper's score: how much each head and neuron contributes to alignment and uniformity, E_x |dL / dg|."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sparsecse import kernels
from sparsecse.datasets import PairSet
from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.gates import Gates, gated
from sparsecse.objectives import alignment
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


def contributions(
    encoder: Encoder,
    pairs: PairSet,
    objective: Objective | None = None,
    *,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Mean over sentences of |dL/dg| for every gate, each sentence having its own copy of the gates.

    The uniformity is the exact one over all pairs of distinct sentences: vectors are computed once without gradients,
    the objective's gradient with respect to each is taken, and one backward pass per batch carries it to the gates
    (gradient caching, Gao et al. 2021). The result does not depend on `batch_size`, up to rounding.

    Args:
        encoder: the dense (or already pruned) encoder.
        pairs: graded pairs; their distinct sentences are the set, those at or above the minimum the positives.
        progress: called with (sentences done, sentences in all); each sentence is passed over twice.
    """
    objective = objective or Objective()
    sentences = pairs.sentences()
    positives = torch.tensor(pairs.positives(objective.positive_minimum))
    token_ids = encoder.tokenize(sentences)
    total = 2 * len(sentences)

    def report(done: int) -> None:
        if progress is not None:
            progress(done, total)

    encoder.eval()
    vectors = encoder.encode_ids(token_ids, batch_size=batch_size, progress=lambda done, _: report(done))
    upstream, values = upstream_gradient(vectors, positives.to(vectors.device), objective)

    sums = [torch.zeros(n, dtype=torch.float64, device=encoder.device) for n in _gate_sizes(encoder)]
    done = len(sentences)
    # Weights need no gradient here: without it their products are skipped, a third of the backward pass.
    frozen = [p for p in encoder.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        for batch in encoder.batches(token_ids, batch_size):
            gates = Gates.ones(encoder.model, batch=len(batch.rows))
            with gated(encoder.model, gates):
                output = encoder(batch.input_ids, batch.attention_mask)
            used = [gate for gate in gates.tensors() if gate.shape[-1]]
            gradients = iter(
                torch.autograd.grad(output, used, upstream[batch.rows.to(upstream.device)].to(output.dtype))
            )
            for total_of_gate in sums:
                if len(total_of_gate):
                    total_of_gate += next(gradients).abs().sum(dim=0)
            done += len(batch.rows)
            report(done)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    means = [total_of_gate / len(sentences) for total_of_gate in sums]
    layers = len(means) // 2
    return Scores(tuple(means[:layers]), tuple(means[layers:]), values)


def _gate_sizes(encoder: Encoder) -> list[int]:
    sizes = encoder.model.config.layer_sizes()
    return [heads for heads, _ in sizes] + [neurons for _, neurons in sizes]
