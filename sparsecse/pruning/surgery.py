"""A mask made real: a smaller model with the same weights where they stay.

Pruning cuts the model that was scored; rewinding makes the same cut in an earlier checkpoint of it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch

from sparsecse.encoders import Encoder, SparseCSEConfig, SparseCSEModel
from sparsecse.encoders.gates import Gates
from sparsecse.errors import InputError
from sparsecse.pruning.masks import Mask


def _smaller_config(config: SparseCSEConfig, mask: Mask) -> SparseCSEConfig:
    values = config.to_dict()
    layers, kept = mask.kept_layers(), mask.kept()
    values["num_hidden_layers"] = len(layers)
    values["first_attention_norm"] = config.first_attention_norm or layers[0] > 0
    for name in ("rotary_bases", "attention_windows"):
        if values[name] is not None:
            values[name] = [values[name][layer] for layer in layers]
    if config.key_value_heads is not None:
        pairs = {layer: _kept_pairs(config.key_value_heads[layer], mask.heads[layer]) for layer in layers}
        values["key_value_heads"] = [[kept.index(source) for source in sources] for sources, kept in pairs.values()]
    values["per_layer_config"] = {
        str(i): {"num_attention_heads": kept[layer][0], "intermediate_size": kept[layer][1]}
        for i, layer in enumerate(layers)
    }
    if config.relative_attention_num_buckets:
        before = config.kept_heads or [list(range(len(heads))) for heads in mask.heads]
        values["kept_heads"] = [
            [head for head, stays in zip(before[layer], mask.heads[layer].tolist(), strict=True) if stays]
            for layer in layers
        ]
    return SparseCSEConfig(**values)


def _kept_pairs(sources: Sequence[int], heads: torch.Tensor) -> tuple[list[int], list[int]]:
    """Which key and value each head that stays looks at, and which of them so stay: those with a head left."""
    left = [source for source, stays in zip(sources, heads.tolist(), strict=True) if stays]
    return left, sorted(set(left))


def _kept_layer(
    state: Mapping[str, torch.Tensor], channels: torch.Tensor, shared: torch.Tensor, neurons: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What stays of one layer's tensors; a projection that has lost everything keeps at most its output bias.

    channels: true for the rows of queries that stay; shared: for those of keys and values; neurons: for neurons.
    """
    rows = {"attention.self.query": channels, "attention.self.key": shared, "attention.self.value": shared}
    rows |= {f"intermediate.{name}": neurons for name in ("dense", "value")}
    before = {f"attention.self.{name}": channels for name in ("LayerNorm", "query_norm", "key_norm")}
    before |= {"intermediate.LayerNorm": neurons}
    columns = {"attention.output.dense": channels, "output.dense": neurons}
    kept = {}
    for name, tensor in state.items():
        module, _, parameter = name.rpartition(".")
        if module in rows:
            tensor = tensor[rows[module]]
        elif module in columns and parameter == "weight":
            tensor = tensor[:, columns[module]].contiguous()
        if tensor.numel() and (module not in before or before[module].any()):
            kept[name] = tensor
    return kept


def _kept_state(model: SparseCSEModel, mask: Mask) -> dict[str, torch.Tensor]:
    full = model.state_dict()
    state = {name: tensor for name, tensor in full.items() if not name.startswith("encoder.layer.")}
    size, groups = model.config.attention_head_size, model.config.key_value_heads
    for i, layer in enumerate(mask.kept_layers()):
        prefix = f"encoder.layer.{layer}."
        own = {name.removeprefix(prefix): tensor for name, tensor in full.items() if name.startswith(prefix)}
        heads = pairs = mask.heads[layer]
        if groups is not None:
            _, stay = _kept_pairs(groups[layer], heads)
            pairs = torch.tensor([pair in stay for pair in sorted(set(groups[layer]))], dtype=torch.bool)
        channels, shared = (x.to(model.device).repeat_interleave(size) for x in (heads, pairs))
        kept = _kept_layer(own, channels, shared, mask.neurons[layer].to(model.device))
        state |= {f"encoder.layer.{i}.{name}": tensor for name, tensor in kept.items()}
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
    model.to(device=encoder.device, dtype=encoder.model.dtype)  # type: ignore[call-arg]
    smaller = Encoder(model, encoder.tokenizer, encoder.settings, encoder.source, copy.deepcopy(encoder.head))
    smaller.origin = encoder.pruned_from()
    return smaller.train(encoder.training)


def gates_of(mask: Mask, model: SparseCSEModel) -> Gates:
    """The mask as closed (0) and open (1) gates of the unpruned model, which then computes what the pruned one does.

    A layer that leaves as a whole cannot be expressed by gates: its residual and LayerNorms go, too.
    """
    return Gates(
        [heads.to(model.device, model.dtype) for heads in mask.heads],
        [neurons.to(model.device, model.dtype) for neurons in mask.neurons],
    )
