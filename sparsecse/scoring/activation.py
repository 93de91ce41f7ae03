"""Scores from activations alone: how large what a structure sends on is, without a gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from sparsecse import distributed
from sparsecse.datasets import PairSet
from sparsecse.encoders import Encoder
from sparsecse.encoders.gates import observed
from sparsecse.scoring.gradients import frozen_encoder
from sparsecse.scoring.precision import resolved_precision
from sparsecse.scoring.scores import Scores
from sparsecse.scoring.settings import ScoringSettings


def activation(
    encoder: Encoder,
    pairs: PairSet,
    settings: ScoringSettings,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Mean over tokens of a structure's size, times the L2 norm of the output weights that it feeds.

    The size is |activation| of a neuron, and the L2 norm of the context vector of a head. After Wanda's |W| * ||X||
    (Sun et al. 2023), which scores weights; here one number stands for a structure's whole column or columns.
    """
    settings = replace(settings, precision=resolved_precision(encoder, settings.precision))
    return distributed.together(_activation, encoder, pairs, settings, progress=progress)


def _activation(
    encoder: Encoder,
    pairs: PairSet,
    settings: ScoringSettings,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    encoder.to(distributed.device(encoder.device))
    config = encoder.model.config
    sums = [torch.zeros(n, dtype=torch.float64, device=encoder.device) for sizes in config.layer_sizes() for n in sizes]
    token_ids = distributed.own(encoder.tokenize(pairs.sentences()))

    def observe(kind: str, layer: int, hidden: torch.Tensor) -> None:
        size = hidden.float().norm(dim=-1) if hidden.dtype != torch.float64 else hidden.norm(dim=-1)
        sums[2 * layer + (kind == "neurons")] += size.sum(dim=0, dtype=torch.float64)

    with (
        frozen_encoder(encoder, settings.precision) as frozen,
        observed(frozen.model, observe),
    ):
        frozen.encode_ids(token_ids, batch_size=settings.batch_size, progress=progress)
    tokens = torch.tensor(float(sum(map(len, token_ids))), dtype=torch.float64)
    distributed.add_up([*sums, tokens])
    found: dict[str, list[torch.Tensor]] = {"heads": [], "neurons": []}
    for number, layer in enumerate(encoder.model.encoder.layer):
        for kind, projection, width in (
            ("heads", layer.attention.output.dense, config.attention_head_size),
            ("neurons", layer.output.dense, 1),
        ):
            mean = sums[2 * number + (kind == "neurons")] / tokens.item()
            if len(mean):
                mean *= projection.weight.detach().double().unflatten(1, (-1, width)).norm(dim=(0, 2))
            found[kind].append(mean)
    return Scores(tuple(found["heads"]), tuple(found["neurons"]))
