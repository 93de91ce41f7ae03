"""A mask made real: a smaller model with the same weights where they stay.

Pruning cuts the model that was scored; rewinding makes the same cut in an earlier checkpoint of it.
"""

from __future__ import annotations

import torch

from sparsecse.encoders import Encoder, SparseCSEConfig, SparseCSEModel
from sparsecse.errors import InputError
from sparsecse.gates import Gates
from sparsecse.masks import Mask


def _smaller_config(config: SparseCSEConfig, mask: Mask) -> SparseCSEConfig:
    values = config.to_dict()
    values["per_layer_config"] = {
        str(i): {"num_attention_heads": heads, "intermediate_size": neurons}
        for i, (heads, neurons) in enumerate(mask.kept())
    }
    if config.relative_attention_num_buckets:
        before = config.kept_heads or [list(range(len(heads))) for heads in mask.heads]
        values["kept_heads"] = [
            [head for head, stays in zip(kept, heads.tolist(), strict=True) if stays]
            for kept, heads in zip(before, mask.heads, strict=True)
        ]
    return SparseCSEConfig(**values)


def _kept_state(model: SparseCSEModel, mask: Mask) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    size = model.config.attention_head_size
    for i, (heads, neurons) in enumerate(zip(mask.heads, mask.neurons, strict=True)):
        layer = f"encoder.layer.{i}."
        channels = heads.to(model.device).repeat_interleave(size)
        neurons = neurons.to(model.device)
        rows = {f"attention.self.{name}": channels for name in ("query", "key", "value")} | {
            "intermediate.dense": neurons
        }
        columns = {"attention.output.dense": channels, "output.dense": neurons}
        for name, keep in rows.items():
            for parameter in ("weight", "bias"):
                key = f"{layer}{name}.{parameter}"
                if key in state:
                    kept = state.pop(key)[keep]
                    if len(kept):
                        state[key] = kept
        for name, keep in columns.items():
            key = f"{layer}{name}.weight"
            if key in state:
                kept = state.pop(key)[:, keep]
                if kept.shape[1]:
                    state[key] = kept.contiguous()
    return state


def prune(encoder: Encoder, mask: Mask) -> Encoder:
    """The encoder without the heads and neurons that the mask drops; its tokenizer and settings are shared.

    Raises:
        InputError: the mask was made for a model of other sizes.
    """
    sizes = encoder.model.config.layer_sizes()
    if sizes != mask.sizes():
        raise InputError(
            f"{encoder.source} has (heads, neurons) {sizes} in its layers, but the mask was made for {mask.sizes()}; "
            f"give the model that was scored, or an earlier checkpoint of it."
        )
    model = SparseCSEModel(_smaller_config(encoder.model.config, mask))
    model.load_state_dict(_kept_state(encoder.model, mask))
    smaller = Encoder(
        model.to(device=encoder.device, dtype=encoder.model.dtype), encoder.tokenizer, encoder.settings, encoder.source
    )
    return smaller.train(encoder.training)


def gates_of(mask: Mask, model: SparseCSEModel) -> Gates:
    """The mask as closed (0) and open (1) gates of the unpruned model, which then computes what the pruned one does."""
    return Gates(
        [heads.to(model.device, model.dtype) for heads in mask.heads],
        [neurons.to(model.device, model.dtype) for neurons in mask.neurons],
    )
