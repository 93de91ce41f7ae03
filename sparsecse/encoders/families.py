"""The one table that knows model families: where each keeps projections and LayerNorms, and how it counts positions.

Whatever is loaded becomes the same `SparseCSEModel`, so no other module needs to ask which family it has. The table is
read in both directions: a checkpoint's names to ours when loading, ours to the family's when writing a stock folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from sparsecse.encoders.modeling_sparsecse import SparseCSEConfig
from sparsecse.errors import InputError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Family:
    """Names inside one layer of a family's checkpoint, and what its embeddings add up.

    positions_after_padding: positions count the real tokens from pad_token_id + 1 (RoBERTa's way) instead of from 0.
    config_names: our configuration's name -> the family's, where they differ.
    fixed_settings: values of our configuration that the family has in its code, whatever its configuration says.
    same_as_hidden_size: settings of the family that must be equal to its hidden size.
    """

    layer: str = "encoder.layer.{}."
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    intermediate: str = "intermediate.dense"
    output: str = "output.dense"
    output_norm: str = "output.LayerNorm"
    positions_after_padding: bool = False
    token_types: bool = True
    relative_attention_bias: bool = False
    config_names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    fixed_settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    same_as_hidden_size: tuple[str, ...] = ()

    def linears(self) -> tuple[str, ...]:
        """The modules of a layer in a fixed order, the same for every family."""
        return (
            self.query,
            self.key,
            self.value,
            self.attention_output,
            self.attention_norm,
            self.intermediate,
            self.output,
            self.output_norm,
        )


BERT = Family()
ROBERTA = Family(positions_after_padding=True)
FAMILIES: Mapping[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "electra": Family(same_as_hidden_size=("embedding_size",)),
    "distilbert": Family(
        layer="transformer.layer.{}.",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        intermediate="ffn.lin1",
        output="ffn.lin2",
        output_norm="output_layer_norm",
        token_types=False,
        config_names={
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
            "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
        },
        fixed_settings={"layer_norm_eps": 1e-12},
    ),
    "mpnet": Family(
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        attention_output="attention.attn.o",
        attention_norm="attention.LayerNorm",
        positions_after_padding=True,
        token_types=False,
        relative_attention_bias=True,
        fixed_settings={"pad_token_id": 1},
    ),
}

# Written into (and read from) every family's configuration under the same or a mapped name.
_SHARED_SETTINGS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "initializer_range",
    "pad_token_id",
)


def family_of(model_type: str | None, source: str) -> Family:
    """The row of the table for a transformers `model_type`; an unknown one raises `InputError` by name."""
    if model_type is not None and model_type in FAMILIES:
        return FAMILIES[model_type]
    raise InputError(
        f"{source} is a '{model_type}' model, which sparsecse does not support; "
        f"the supported families are {', '.join(FAMILIES)} and folders that sparsecse packed."
    )


def config_from_family(settings: Mapping[str, Any], has_pooler: bool, source: str) -> SparseCSEConfig:
    """Our configuration for a dense checkpoint.

    settings: the family's complete configuration as a dictionary, defaults filled in.
    """
    family = family_of(settings.get("model_type"), source)
    if settings.get("is_decoder") or settings.get("add_cross_attention"):
        raise InputError(f"{source} is a decoder (is_decoder or add_cross_attention is set); give an encoder instead.")
    if settings.get("position_embedding_type", "absolute") != "absolute":
        raise InputError(
            f"{source} uses position_embedding_type '{settings['position_embedding_type']}' in its config.json; "
            f"only absolute positions are supported."
        )
    values = {name: settings[family.config_names.get(name, name)] for name in _SHARED_SETTINGS}
    values |= {"layer_norm_eps": settings.get("layer_norm_eps", 1e-12), **family.fixed_settings}
    for name in family.same_as_hidden_size:
        if settings[name] != values["hidden_size"]:
            raise InputError(
                f"{source} is a '{settings['model_type']}' model with {name} {settings[name]} and hidden_size "
                f"{values['hidden_size']} in its config.json; sparsecse supports it where the two are equal."
            )
    if values["pad_token_id"] is None:
        if family.positions_after_padding:
            raise InputError(
                f"{source}: pad_token_id is null in its config.json, and a '{settings['model_type']}' model counts "
                f"positions from it; write the id of the tokenizer's padding token there."
            )
        values["pad_token_id"] = 0  # padding is masked, so that any token serves
    if values["hidden_size"] % values["num_attention_heads"]:
        width, heads = (
            f"{family.config_names.get(name, name)} {values[name]}" for name in ("hidden_size", "num_attention_heads")
        )
        raise InputError(f"{source}: {width} is not a multiple of {heads} in its config.json.")
    return SparseCSEConfig(
        **values,
        attention_head_size=values["hidden_size"] // values["num_attention_heads"],
        type_vocab_size=settings["type_vocab_size"] if family.token_types else 0,
        position_offset=values["pad_token_id"] + 1 if family.positions_after_padding else 0,
        relative_attention_num_buckets=(
            settings["relative_attention_num_buckets"] if family.relative_attention_bias else 0
        ),
        has_pooler=has_pooler,
        original_model_type=settings["model_type"],
    )


def config_to_family(config: SparseCSEConfig) -> dict[str, Any]:
    """The stock configuration (a dictionary with `model_type`) of an encoder whose layers are all alike."""
    family = FAMILIES[config.original_model_type]
    heads, neurons = config.layer_sizes()[0]
    sizes = {"num_attention_heads": heads, "intermediate_size": neurons}
    values = {
        family.config_names.get(name, name): sizes[name] if name in sizes else getattr(config, name)
        for name in _SHARED_SETTINGS
    }
    values |= {"model_type": config.original_model_type, "layer_norm_eps": config.layer_norm_eps}
    values |= dict.fromkeys(family.same_as_hidden_size, config.hidden_size)
    if family.token_types:
        values["type_vocab_size"] = config.type_vocab_size
    if family.relative_attention_bias:
        values["relative_attention_num_buckets"] = config.relative_attention_num_buckets
    return values


def _renamed(state: Mapping[str, _T], layers: int, source: Family, target: Family) -> dict[str, _T]:
    prefixes = {
        source.layer.format(layer) + old + ".": target.layer.format(layer) + new + "."
        for layer in range(layers)
        for old, new in zip(source.linears(), target.linears(), strict=True)
    }
    renamed = {}
    for name, tensor in state.items():
        module, _, parameter = name.rpartition(".")
        renamed[prefixes.get(module + ".", module + ".") + parameter] = tensor
    return renamed


def state_from_family(state: Mapping[str, _T], config: SparseCSEConfig) -> dict[str, _T]:
    """A family's state dictionary, or whatever has its names, under our names (tensors are shared, not copied)."""
    return _renamed(state, config.num_hidden_layers, FAMILIES[config.original_model_type], BERT)


def state_to_family(state: Mapping[str, torch.Tensor], config: SparseCSEConfig) -> dict[str, torch.Tensor]:
    """Our state dictionary under the family's own names (tensors are shared, not copied)."""
    return _renamed(state, config.num_hidden_layers, BERT, FAMILIES[config.original_model_type])
