"""Repair without training: the output projections are fitted again, in closed form, to a reference model's states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.pruning.states import Gram, Stream


class _LeastSquares:
    """Sums over tokens from which a projection W x + b is fitted to wanted outputs, near the weights that it has.

    Args:
        linear: the projection, [out, in], with a bias, a weight or both; it is not changed before `fit`.
    """

    def __init__(self, linear: Any):
        self._linear = linear
        first = next(linear.parameters())
        size_in, size_out = getattr(linear, "in_features", 0), len(first)
        options: dict[str, Any] = {"dtype": torch.float64, "device": first.device}
        self._inputs = Gram(size_in, first.device)
        self._errors = torch.zeros(size_out, **options)
        self._cross = torch.zeros(size_in, size_out, **options)

    def add(self, inputs: torch.Tensor, wanted: torch.Tensor) -> None:
        """inputs: [tokens, in]; wanted: [tokens, out]."""
        error = wanted - self._linear(inputs)
        self._inputs.add(inputs)
        self._errors += error.sum(dim=0)
        if self._inputs.size:
            self._cross += inputs.T @ error

    def fit(self, strength: float) -> None:
        """Change the projection by the ridge regression of the errors on the inputs, both centred if it has a bias."""
        bias = self._linear.bias
        centred, count = bias is not None, self._inputs.count
        mean_error = centred * self._errors / count
        if self._inputs.size:
            mean_input = self._inputs.mean(centred)
            cross = self._cross - count * torch.outer(mean_input, mean_error)
            change = torch.linalg.solve(self._inputs.ridge(strength, centred), cross).T
            self._linear.weight += change.to(self._linear.weight.dtype)
            mean_error = mean_error - change @ mean_input
        if bias is not None:
            bias += mean_error.to(bias.dtype)


@torch.no_grad()
def reconstruct(
    pruned: Encoder,
    reference: Encoder,
    token_ids: Sequence[Sequence[int]],
    *,
    layers: Sequence[int] | None = None,
    strength: float = 0.1,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Fit every output projection of a pruned encoder, in place, so that its states come near a reference's.

    Half layer by half layer (attention, feed-forward) the projection W x + b, with x as the already fitted layers
    below give it, is fitted to y + (r - h): y is what the reference's projection gives, r and h are the residual
    streams of reference and pruned model, so that a half also makes up for the error that it finds. The fit is a ridge
    regression around the weights that are there: the sum over tokens of |W' x + b' - target|^2, plus
    strength * m * |W' - W|^2 with m the mean of the diagonal of the centred Gram matrix of x. Where a family has no b,
    nothing is centred, and a half that has lost everything has nothing to fit. Least-squares reconstruction after
    structured pruning is Kwon et al. (2022)'s mask tuning and what followed it; the residual term is what makes it work
    here; it is left out where a norm stands between the projection and the residual sum.

    Args:
        pruned: the encoder to repair; float32 or float64, changed in place.
        reference: the encoder to follow: the dense model, or a lighter cut of it; the same hidden size and tokens.
        token_ids: calibration sentences; their states are held in memory, 8 * hidden_size bytes a token.
        layers: for each layer of `pruned` the layer of `reference` that it stands for; by default all in order.
        strength: of the ridge, above 0; large values change little.
        batch_size: sentences of average length that are passed forward at a time.
        progress: called with (half layers done, half layers in all).

    Raises:
        InputError: no sentence, a strength that is not above 0, or models that do not fit each other.
    """
    if not strength > 0:
        raise InputError(f"The reconstruction's strength {strength:g} is not above 0.")
    if not len(token_ids):
        raise InputError("The reconstruction has no calibration sentence; give at least one.")
    own_layers, their_layers = len(pruned.model.encoder.layer), len(reference.model.encoder.layer)
    layers = list(range(own_layers)) if layers is None else list(layers)
    fits = pruned.model.config.hidden_size == reference.model.config.hidden_size
    if not fits or len(layers) != own_layers or (layers and max(layers) >= their_layers):
        raise InputError(
            f"{reference.source} cannot be the reference of {pruned.source}: hidden size and layers must fit; give the "
            f"model that was pruned."
        )
    modes = [(model, model.training) for model in (pruned, reference)]
    for model, _ in modes:
        model.eval()
    batches = [batch for _, batch in pruned.batches(token_ids, batch_size)]
    stream, wanted = Stream(pruned, batches), Stream(reference, batches)
    done = 0
    for theirs in range(their_layers):
        for attention in (True, False):
            block, inputs = wanted.half(theirs, attention)
            if theirs in layers:
                own_block, own_inputs = stream.half(layers.index(theirs), attention)
                _fit_half(own_block, own_inputs, stream.states, block, inputs, wanted.states, strength)
                stream.advance(own_block, own_inputs)
            wanted.advance(block, inputs)
            done += 1
            if progress is not None:
                progress(done, 2 * their_layers)
    for model, mode in modes:
        model.train(mode)


def _fit_half(
    own_block: Any,
    own_inputs: Sequence[torch.Tensor],
    own_states: Sequence[torch.Tensor],
    block: Any,
    inputs: Sequence[torch.Tensor],
    states: Sequence[torch.Tensor],
    strength: float,
) -> None:
    if not list(own_block.dense.parameters()):
        return
    sums = _LeastSquares(own_block.dense)
    for own_x, own_h, x, r in zip(own_inputs, own_states, inputs, states, strict=True):
        wanted = block.dense(x)
        # A norm that comes before the sum would take the residual's error with it, scaled.
        sums.add(own_x, wanted if block.norm_before_sum else wanted + (r - own_h))
    sums.fit(strength)
