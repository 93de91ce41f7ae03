"""The one table that knows model families: what a layer of each is like, and where it keeps its weights.

Whatever is loaded becomes the same `SparseCSEModel`, so no other module needs to ask which family it has. The table is
read in both directions: a checkpoint's names to ours when loading, ours to the family's when writing a stock folder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from sparsecse.encoders.modeling_sparsecse import SparseCSEConfig
from sparsecse.encoders.stored import Stored
from sparsecse.errors import InputError
from sparsecse.reading import shown

_T = TypeVar("_T")
LARGEST_BASE = 1e12
_FULL, _SLIDING = "full_attention", "sliding_attention"


def _map(**names: Any) -> Mapping[str, Any]:
    return MappingProxyType(names)


@dataclass(frozen=True)
class Family:
    """What a family's model is like, and the names in its checkpoint where they are not BERT's, which are ours.

    layer: what precedes names inside a layer.
    inside: our name of a module inside a layer -> the family's. Ours that have one name there are parts of one matrix,
        rows after rows in this order.
    names: the same for whole names.
    positions_after_padding: positions count the real tokens from pad_token_id + 1 (RoBERTa's way) instead of from 0.
    rotary: positions turn queries and keys, instead of being embedded.
    window: the setting that says how many tokens a local layer sees, half of them to either side.
    groups: the setting that says how many keys and values there are, each for as many heads.
    config_names: our configuration's name -> the family's, where they differ, and of biases and a size of heads that
        follow from nothing else.
    fixed_settings: values of our configuration that the family has in its code, whatever its configuration says.
    scaled_embeddings: embedded tokens are multiplied by the root of the hidden size.
    norm_shift: what the family adds to the weights of its norms; ours have it in them.
    equal: a setting of the family -> another one that it must be equal to.
    required: a setting of the family -> the value that it must have.
    unset: settings of the family that no encoder needs, and whose defaults do not fit every vocabulary.
    """

    layer: str = "encoder.layer.{}."
    inside: Mapping[str, str] = field(default_factory=_map)
    names: Mapping[str, str] = field(default_factory=_map)
    positions_after_padding: bool = False
    token_types: bool = True
    relative_attention_bias: bool = False
    rotary: bool = False
    window: str | None = None
    groups: str | None = None
    config_names: Mapping[str, str] = field(default_factory=_map)
    fixed_settings: Mapping[str, Any] = field(default_factory=_map)
    scaled_embeddings: bool = False
    norm_shift: float = 0.0
    equal: Mapping[str, str] = field(default_factory=_map)
    required: Mapping[str, Any] = field(default_factory=_map)
    unset: tuple[str, ...] = ()

    def name(self, ours: str) -> str:
        """The family's whole name of a module that no layer has."""
        return self.names.get(ours, ours)

    def modules(self, layers: int) -> dict[str, str]:
        """Our whole name of a module -> the family's, where they differ, in a model of so many layers."""
        names = dict(self.names)
        for layer in range(layers):
            prefix = self.layer.format(layer)
            names |= {f"encoder.layer.{layer}.{ours}": prefix + theirs for ours, theirs in self.inside.items()}
        return names


_QWEN3_LAYER = {
    "attention.self.LayerNorm": "input_layernorm",
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.self.query_norm": "self_attn.q_norm",
    "attention.self.key_norm": "self_attn.k_norm",
    "attention.output.dense": "self_attn.o_proj",
    "intermediate.LayerNorm": "post_attention_layernorm",
    "intermediate.dense": "mlp.gate_proj",
    "intermediate.value": "mlp.up_proj",
    "output.dense": "mlp.down_proj",
}
_QWEN3_SETTINGS = {
    "attention_head_size": "head_dim",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "rms_norm_eps",
    "attention_bias": "attention_bias",
}
_QWEN3_FIXED = {
    "norm": "RMSNorm",
    "embedding_norm": False,
    "norm_first": True,
    "norm_bias": False,
    "feed_forward_bias": False,
    "gated": True,
    "query_key_norm": True,
    "hidden_dropout_prob": 0.0,
}
BERT = Family()
ROBERTA = Family(positions_after_padding=True)
FAMILIES: Mapping[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "electra": Family(equal={"embedding_size": "hidden_size"}),
    "distilbert": Family(
        layer="transformer.layer.{}.",
        inside={
            "attention.self.query": "attention.q_lin",
            "attention.self.key": "attention.k_lin",
            "attention.self.value": "attention.v_lin",
            "attention.output.dense": "attention.out_lin",
            "attention.output.LayerNorm": "sa_layer_norm",
            "intermediate.dense": "ffn.lin1",
            "output.dense": "ffn.lin2",
            "output.LayerNorm": "output_layer_norm",
        },
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
        inside={
            "attention.self.query": "attention.attn.q",
            "attention.self.key": "attention.attn.k",
            "attention.self.value": "attention.attn.v",
            "attention.output.dense": "attention.attn.o",
            "attention.output.LayerNorm": "attention.LayerNorm",
        },
        positions_after_padding=True,
        token_types=False,
        relative_attention_bias=True,
        fixed_settings={"pad_token_id": 1},
    ),
    "modernbert": Family(
        layer="layers.{}.",
        inside={
            **dict.fromkeys(("attention.self.query", "attention.self.key", "attention.self.value"), "attn.Wqkv"),
            "attention.self.LayerNorm": "attn_norm",
            "attention.output.dense": "attn.Wo",
            **dict.fromkeys(("intermediate.dense", "intermediate.value"), "mlp.Wi"),
            "intermediate.LayerNorm": "mlp_norm",
            "output.dense": "mlp.Wo",
        },
        names={
            "embeddings.word_embeddings": "embeddings.tok_embeddings",
            "embeddings.LayerNorm": "embeddings.norm",
            "encoder.LayerNorm": "final_norm",
        },
        token_types=False,
        rotary=True,
        window="local_attention",
        config_names={
            "hidden_act": "hidden_activation",
            "hidden_dropout_prob": "mlp_dropout",
            "attention_probs_dropout_prob": "attention_dropout",
            "layer_norm_eps": "norm_eps",
            "norm_bias": "norm_bias",
            "attention_bias": "attention_bias",
            "feed_forward_bias": "mlp_bias",
        },
        fixed_settings={"norm_first": True, "first_attention_norm": False, "gated": True},
        unset=("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"),
    ),
    "qwen3": Family(
        layer="layers.{}.",
        inside=_QWEN3_LAYER,
        names={"embeddings.word_embeddings": "embed_tokens", "encoder.LayerNorm": "norm"},
        token_types=False,
        rotary=True,
        groups="num_key_value_heads",
        config_names=_QWEN3_SETTINGS,
        fixed_settings={**_QWEN3_FIXED, "causal": True},
    ),
    "gemma3_text": Family(
        layer="layers.{}.",
        inside={
            **_QWEN3_LAYER,
            "attention.output.LayerNorm": "post_attention_layernorm",
            "intermediate.LayerNorm": "pre_feedforward_layernorm",
            "output.LayerNorm": "post_feedforward_layernorm",
        },
        names={"embeddings.word_embeddings": "embed_tokens", "encoder.LayerNorm": "norm"},
        token_types=False,
        rotary=True,
        window="sliding_window",
        groups="num_key_value_heads",
        config_names={**_QWEN3_SETTINGS, "hidden_act": "hidden_activation"},
        fixed_settings={**_QWEN3_FIXED, "norm_outputs": True},
        scaled_embeddings=True,
        norm_shift=1.0,
        equal={"query_pre_attn_scalar": "head_dim"},
        required={"use_bidirectional_attention": True, "attn_logit_softcapping": None},
        unset=("bos_token_id", "eos_token_id"),
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
# Of families that have a name for them.
_NAMED_SETTINGS = ("norm_bias", "attention_bias", "feed_forward_bias", "attention_head_size")
# Which BERT's layers have at their defaults.
_LAYERS = (
    *(
        "norm",
        "embedding_norm",
        "embedding_scale",
        "norm_first",
        "norm_bias",
        "attention_bias",
        "feed_forward_bias",
        "gated",
    ),
    *("norm_outputs", "query_key_norm", "key_value_heads", "rotary_bases", "attention_windows", "causal"),
)
_BERT = SparseCSEConfig()


def has_berts_layers(config: SparseCSEConfig, besides: Collection[str] = ()) -> bool:
    """Whether layers are made as BERT's: norms after their halves, neurons of one factor, nothing that turns or hides
    tokens, biases everywhere.

    besides: the settings that may say otherwise.
    """
    return all(getattr(config, name) == getattr(_BERT, name) for name in _LAYERS if name not in besides)


def shared_evenly(heads: int, pairs: int) -> list[int]:
    """Which of so many pairs of key and value each head looks at, where each pair has as many heads."""
    return [head * pairs // heads for head in range(heads)]


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
    values = {
        "layer_norm_eps": settings.get(family.config_names.get("layer_norm_eps", "layer_norm_eps"), 1e-12),
        **{ours: settings[theirs] for ours, theirs in _settings_of(family)},
        **family.fixed_settings,
    }
    for name, other in family.equal.items():
        if settings[name] != settings[other]:
            raise InputError(
                f"{source} is a '{settings['model_type']}' model with {name} {settings[name]} and {other} "
                f"{settings[other]} in its config.json; sparsecse supports it where the two are equal."
            )
    for name, value in family.required.items():
        if settings[name] != value:
            raise InputError(
                f"{source} is a '{settings['model_type']}' model with {name} {shown(settings[name])} in its "
                f"config.json; sparsecse supports it where that is {shown(value)}."
            )
    if family.scaled_embeddings:
        values["embedding_scale"] = values["hidden_size"] ** 0.5
    if values["pad_token_id"] is None:
        if family.positions_after_padding:
            raise InputError(
                f"{source}: pad_token_id is null in its config.json, and a '{settings['model_type']}' model counts "
                f"positions from it; write the id of the tokenizer's padding token there."
            )
        values["pad_token_id"] = 0  # padding is masked, so that any token serves
    heads_name = family.config_names.get("num_attention_heads", "num_attention_heads")
    if "attention_head_size" not in values:
        _require_multiple(settings, family.config_names.get("hidden_size", "hidden_size"), heads_name, source)
        values["attention_head_size"] = values["hidden_size"] // values["num_attention_heads"]
    if family.groups is not None:
        _require_multiple(settings, heads_name, family.groups, source)
        sources = shared_evenly(values["num_attention_heads"], settings[family.groups])
        values["key_value_heads"] = [sources] * values["num_hidden_layers"]
    return SparseCSEConfig(
        **values,
        **(_rotary(settings, family, source) if family.rotary else {}),
        type_vocab_size=settings["type_vocab_size"] if family.token_types else 0,
        position_offset=values["pad_token_id"] + 1 if family.positions_after_padding else 0,
        relative_attention_num_buckets=(
            settings["relative_attention_num_buckets"] if family.relative_attention_bias else 0
        ),
        has_pooler=has_pooler,
        original_model_type=settings["model_type"],
    )


def _settings_of(family: Family) -> list[tuple[str, str]]:
    """The names, ours and the family's, of what stands in both configurations."""
    shared = [name for name in _SHARED_SETTINGS if name not in family.fixed_settings]
    named = [name for name in _NAMED_SETTINGS if name in family.config_names]
    return [(name, family.config_names.get(name, name)) for name in (*shared, *named)]


def _require_multiple(settings: Mapping[str, Any], name: str, of: str, source: str) -> None:
    if settings[name] % settings[of]:
        raise InputError(
            f"{source}: {name} {settings[name]} is not a multiple of {of} {settings[of]} in its config.json."
        )


def _rotary(settings: Mapping[str, Any], family: Family, source: str) -> dict[str, Any]:
    """What each layer knows of positions: the base of its angles, and how far it sees."""
    types: Sequence[str] = settings["layer_types"]
    known = {_FULL} if family.window is None else {_FULL, _SLIDING}
    if len(types) != settings["num_hidden_layers"] or not set(types) <= known:
        raise InputError(
            f"{source}: layer_types in its config.json must name {' or '.join(sorted(known))} for each of "
            f"{settings['num_hidden_layers']} layers."
        )
    angles = {kind: settings["rope_parameters"].get(kind, settings["rope_parameters"]) for kind in known}
    for kind in set(types):
        base = angles[kind].get("rope_theta")
        known_base = type(base) in (int, float) and 1 <= base <= LARGEST_BASE
        if angles[kind].get("rope_type") != "default" or not known_base:
            raise InputError(
                f"{source} has rope_parameters {angles[kind]} for {kind} in its config.json; sparsecse supports the "
                f"rope_type default, with a rope_theta from 1 to {LARGEST_BASE:.0e}."
            )
    window = None if family.window is None else settings[family.window] // 2
    return {
        "rotary_bases": [float(angles[kind]["rope_theta"]) for kind in types],
        "attention_windows": [window if kind == _SLIDING else None for kind in types],
    }


def config_to_family(config: SparseCSEConfig) -> dict[str, Any]:
    """The stock configuration (a dictionary with `model_type`) of an encoder whose layers are all alike."""
    family = FAMILIES[config.original_model_type]
    heads, neurons = config.layer_sizes()[0]
    sizes = {"num_attention_heads": heads, "intermediate_size": neurons}
    names = [*_settings_of(family), ("layer_norm_eps", family.config_names.get("layer_norm_eps", "layer_norm_eps"))]
    values = {theirs: sizes[ours] if ours in sizes else getattr(config, ours) for ours, theirs in names}
    values["model_type"] = config.original_model_type
    if family.groups is not None:
        values[family.groups] = config.key_value_heads[0][-1] + 1
    values |= {name: values[other] for name, other in family.equal.items()}
    values |= {**family.required, **dict.fromkeys(family.unset)}
    if family.token_types:
        values["type_vocab_size"] = config.type_vocab_size
    if family.relative_attention_bias:
        values["relative_attention_num_buckets"] = config.relative_attention_num_buckets
    if family.rotary:
        types = [_FULL if window is None else _SLIDING for window in config.attention_windows]
        bases = dict(zip(types, config.rotary_bases, strict=True))
        angles = {kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()}
        values["layer_types"] = types
        values["rope_parameters"] = angles[_FULL] if family.window is None else angles
        windows = [window for window in config.attention_windows if window is not None]
        if windows:
            values[str(family.window)] = 2 * windows[0]
    return values


def _parts(value: Any, count: int) -> Sequence[Any]:
    """The parts of a tensor that lie in it row after row, or of what stands for one."""
    if isinstance(value, torch.Tensor):
        return [part.clone() for part in value.chunk(count)]
    return value.parts(count) if isinstance(value, Stored) else [value] * count


def state_from_family(state: Mapping[str, _T], config: SparseCSEConfig) -> dict[str, _T]:
    """A family's state dictionary, or whatever has its names, under our names.

    Tensors are shared, not copied, but for those of which ours are parts and weights of norms that are shifted.
    """
    ours: dict[str, list[str]] = {}
    family = FAMILIES[config.original_model_type]
    for own, theirs in family.modules(config.num_hidden_layers).items():
        ours.setdefault(theirs, []).append(own)
    renamed: dict[str, _T] = {}
    for name, value in state.items():
        module, _, parameter = name.rpartition(".")
        own_names = ours.get(module, [module])
        parts = [value] if len(own_names) == 1 else _parts(value, len(own_names))
        for own, part in zip(own_names, parts, strict=True):
            renamed[f"{own}.{parameter}"] = _shifted(part, own, family.norm_shift)
    return renamed


def _shifted(value: Any, module: str, shift: float) -> Any:
    """A tensor of a module of ours, with something added if it is a norm's; what stands for one stays."""
    is_norm = shift and module.lower().endswith("norm") and isinstance(value, torch.Tensor)
    return value + shift if is_norm else value


def state_to_family(state: Mapping[str, torch.Tensor], config: SparseCSEConfig) -> dict[str, torch.Tensor]:
    """Our state dictionary under the family's own names: `state_from_family` undone."""
    family = FAMILIES[config.original_model_type]
    theirs = family.modules(config.num_hidden_layers)
    parts: dict[str, list[torch.Tensor]] = {}
    for module in dict.fromkeys([*theirs, *(name.rpartition(".")[0] for name in state)]):
        for parameter in ("weight", "bias"):
            if (name := f"{module}.{parameter}") in state:
                part = _shifted(state[name], module, -family.norm_shift)
                parts.setdefault(f"{theirs.get(module, module)}.{parameter}", []).append(part)
    return {name: torch.cat(tensors) if len(tensors) > 1 else tensors[0] for name, tensors in parts.items()}
