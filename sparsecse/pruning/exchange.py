"""Which heads and neurons of a layer leave, once scores have said how many: those that the rest makes up for best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.pruning.masks import Mask
from sparsecse.pruning.order import Limits
from sparsecse.pruning.states import Gram, Stream

# Neurons leave in so many steps, each of which sees what the ones before it left behind.
_STEPS = 64


@torch.no_grad()
def least_error(
    mask: Mask,
    dense: Encoder,
    token_ids: Sequence[Sequence[int]],
    limits: Limits | None = None,
    *,
    strength: float = 0.1,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Mask:
    """Exchange what leaves within each layer, so that its output projections can be refitted with the least error.

    With H = X^T X + ridge of a projection's inputs X [tokens, in], and its weights W [out, in], removing inputs S and
    fitting the others again adds tr(W_S (H^-1_SS)^-1 W_S^T) to the squared error of its outputs (Optimal Brain
    Surgeon, Hassibi and Stork 1993; for groups of inputs, and greedily, Kurtic, Frantar and Alistarh, ZipLM, arXiv
    2302.04089). The lowest leave first, W and H^-1 being updated each time; each layer sees the dense model's states.

    Args:
        mask: how many heads and neurons of each layer stay.
        dense: the model that the mask is of; left as it is.
        token_ids: sentences like those that `reconstruction.reconstruct` will fit on; their states are held in memory.
        limits: what never leaves.
        strength: of the ridge, as for `reconstruct`.
        batch_size: sentences of average length that are passed forward at a time.
        progress: called with (half layers done, half layers in all).

    Returns:
        a mask of the same counts.

    Raises:
        InputError: no sentence.
    """
    if not len(token_ids):
        raise InputError("Nothing says what a layer computes; give at least one sentence.")
    limits, training = limits or Limits(), dense.training
    dense.eval()
    stream = Stream(dense, [batch for _, batch in dense.batches(token_ids, batch_size)])
    heads, neurons = list(mask.heads), list(mask.neurons)
    for layer in range(len(heads)):
        for attention in (True, False):
            kept, fixed = (heads, limits.fixed_heads) if attention else (neurons, limits.fixed_neurons)
            block, inputs = stream.half(layer, attention)
            own = kept[layer]
            if 0 < int(own.sum()) < len(own):
                gram = Gram(block.dense.in_features, dense.device)
                for x in inputs:
                    gram.add(x)
                hessian = gram.ridge(strength, block.dense.bias is not None)
                stays = lowest_error(block.dense.weight, hessian, int(own.sum()), fixed(layer, len(own)))
                kept[layer] = stays.to(own.device)
            stream.advance(block, inputs)
            if progress is not None:
                progress(2 * layer + 2 - attention, 2 * len(heads))
    dense.train(training)
    return replace(mask, heads=tuple(heads), neurons=tuple(neurons))


def lowest_error(weight: torch.Tensor, hessian: torch.Tensor, keep: int, fixed: torch.Tensor) -> torch.Tensor:
    """Which groups of a projection's inputs stay: see `least_error`.

    Args:
        weight: [out, in]; each group has in / groups inputs, one after another.
        hessian: [in, in], float64.
        keep: how many groups stay.
        fixed: [groups], true for what never leaves; at most `keep` of them.

    Returns:
        [groups], true for what stays.
    """
    groups = len(fixed)
    size = len(hessian) // groups
    columns = torch.arange(len(hessian), device=hessian.device).view(groups, size)
    left = torch.ones(groups, dtype=torch.bool, device=hessian.device)
    free = ~fixed.to(hessian.device)
    weight, inverse = weight.double(), torch.linalg.inv(hessian)
    step = -(-(groups - keep) // _STEPS) if size == 1 else 1
    while (most := int(left.sum()) - keep) > 0:
        rows = (left & free).nonzero().flatten()
        own = columns[rows]
        blocks = inverse[own[:, :, None], own[:, None, :]]
        parts = weight[:, own].permute(1, 2, 0)  # [groups left, size, out]
        errors = (parts * torch.linalg.solve(blocks, parts)).sum(dim=(1, 2))
        leaving = rows[errors.argsort(stable=True)[: min(step, most)]]
        gone = columns[leaving].flatten()
        share = torch.linalg.solve(inverse[gone][:, gone], inverse[gone])
        weight = weight - weight[:, gone] @ share
        inverse -= inverse[:, gone] @ share
        left[leaving] = False
    return left
