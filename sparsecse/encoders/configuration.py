"""A model's config.json, held to what transformers and our own model take, and to the tensors of the weights.

Everything is refused here before transformers builds anything: a number of layers or of tokens takes no memory until
the weights have shown that they hold as many.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from transformers import CONFIG_MAPPING
from transformers.activations import ACT2FN

from sparsecse.encoders.families import (
    FAMILIES,
    LARGEST_BASE,
    Family,
    config_from_family,
    family_of,
    state_from_family,
)
from sparsecse.encoders.model_files import Known, ModelFiles, Rule, inside, number, whole
from sparsecse.encoders.modeling_sparsecse import SparseCSEConfig
from sparsecse.encoders.stored import Stored, stored_tensors
from sparsecse.errors import InputError
from sparsecse.reading import shown

CONFIG_FILE = "config.json"
_FLAG = (True, False)


def _for_layers(rule: Rule) -> Rule:
    return Rule(
        lambda value: value is None or (isinstance(value, list) and all(map(rule.holds, value))),
        f"null, or a list that has for each layer {rule.words}",
    )


_OF_ALL: Known = {
    **dict.fromkeys(("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"), whole(1)),
    **dict.fromkeys(("num_attention_heads", "intermediate_size"), whole(1)),
    "type_vocab_size": whole(0),
    "pad_token_id": whole(0, null=True),
    **dict.fromkeys(("layer_norm_eps", "initializer_range"), number(0)),
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), number(0, 1)),
    "hidden_act": Rule(
        lambda value: isinstance(value, str) and value in ACT2FN,
        "the name of an activation of transformers, such as gelu",
    ),
    "output_hidden_states": (*_FLAG, None),
}
_BIASES: Known = dict.fromkeys(("norm_bias", "attention_bias", "feed_forward_bias"), _FLAG)
_OF_FAMILIES: Known = {
    **_OF_ALL,
    **dict.fromkeys(("is_decoder", "add_cross_attention"), (*_FLAG, None)),
    "auto_map": Rule(lambda value: value is None or isinstance(value, dict), "an object"),
    "relative_attention_num_buckets": whole(1),
    "global_attn_every_n_layers": whole(1),
}
_OWN: Known = {
    **_OF_ALL,
    # Of layers that are not in per_layer_config; all may have lost all.
    **dict.fromkeys(("num_attention_heads", "intermediate_size"), whole(0)),
    "pad_token_id": whole(0),
    "attention_head_size": whole(1),
    **dict.fromkeys(("position_offset", "relative_attention_num_buckets"), whole(0)),
    **_BIASES,
    "norm": ("LayerNorm", "RMSNorm"),
    **dict.fromkeys(("embedding_norm", "norm_first", "first_attention_norm", "gated", "has_pooler"), _FLAG),
    **dict.fromkeys(("norm_outputs", "query_key_norm", "causal"), _FLAG),
    "embedding_scale": number(0),
    "key_value_heads": _for_layers(
        Rule(
            lambda value: isinstance(value, list) and all(type(item) is int for item in value),
            "a list of whole numbers",
        )
    ),
    "rotary_bases": _for_layers(number(1, LARGEST_BASE)),
    "attention_windows": _for_layers(whole(0, null=True)),
    "original_model_type": tuple(FAMILIES),
    "weight_storage": (None, "int8"),
}
_LAYER: Known = dict.fromkeys(("num_attention_heads", "intermediate_size"), whole(0))


def check_values(files: ModelFiles, name: str, settings: Mapping[str, Any]) -> None:
    """Raise `InputError` for the first value of a configuration that is none of its kind.

    Args:
        files: the model.
        name: of the configuration among its files.
        settings: what it holds.
    """
    kind = Rule(lambda value: isinstance(value, str), "the name of a family of models")
    files.check(name, {"model_type": settings["model_type"]}, {"model_type": kind})
    if _is_own(settings):
        known = _OWN
        _check_layers(files, name, settings)
    else:
        family = family_of(settings["model_type"], files.source)
        known = {**_OF_FAMILIES, **({"type_vocab_size": whole(1)} if family.token_types else {})}
        known |= {other: {**_OWN, **known}[key] for key, other in family.config_names.items()}
        known |= {} if family.window is None else {family.window: whole(0)}
        known |= {} if family.groups is None else {family.groups: whole(1)}
    files.check(name, {key: value for key, value in settings.items() if key in known}, known)


def _is_own(settings: Mapping[str, Any]) -> bool:
    return settings["model_type"] == SparseCSEConfig.model_type


def _check_layers(files: ModelFiles, name: str, settings: Mapping[str, Any]) -> None:
    """Raise `InputError` for a `per_layer_config` or `kept_heads` that is not one entry a layer, at most."""
    place, count = f"{files.source}/{name}", settings.get("num_hidden_layers")
    layers = {} if settings.get("per_layer_config") is None else settings["per_layer_config"]
    if not isinstance(layers, dict):
        raise InputError(f"{place}: per_layer_config is {shown(layers)}, and must be an object of layers.")
    for index, sizes in layers.items():
        if not re.fullmatch(r"0|[1-9]\d{0,8}", index) or (isinstance(count, int) and int(index) >= count):
            raise InputError(
                f"{place}: per_layer_config has a layer {shown(index)}, and num_hidden_layers is {shown(count)}; "
                f"layers are counted from 0."
            )
        if not isinstance(sizes, dict):
            raise InputError(f"{place}: per_layer_config has {shown(sizes)} for layer {index}, not its sizes.")
        files.check(name, sizes, _LAYER, f"per_layer_config, layer {index}: ")
    kept = settings.get("kept_heads")
    if kept is not None and not (isinstance(kept, list) and all(isinstance(heads, list) for heads in kept)):
        raise InputError(f"{place}: kept_heads is {shown(kept)}, and must be a list of heads for each layer, or null.")


def checked_config(files: ModelFiles, folder: str, settings: Mapping[str, Any]) -> Any:
    """The configuration as transformers takes it, for a model whose weights hold what it says.

    Args:
        files: the model.
        folder: where its configuration and its weights lie.
        settings: the configuration, whose values were checked.

    Raises:
        InputError: transformers does not take it, a family does not have it, or the weights lack a tensor of it, or
            have one of another shape or type.
    """
    name = inside(folder, CONFIG_FILE)
    tensors = stored_tensors(files, folder)
    family = FAMILIES["bert"] if _is_own(settings) else family_of(settings["model_type"], files.source)
    tensors = _unprefixed(files, tensors, f"{family.name('embeddings.word_embeddings')}.weight")
    _check_depth(files, name, settings, tensors, family)
    try:
        config_class = SparseCSEConfig if _is_own(settings) else CONFIG_MAPPING[settings["model_type"]]
        config = config_class.from_dict(dict(settings))
    except Exception as error:  # transformers raises errors of many classes, some of several lines
        raise InputError(
            f"{files.source}/{name} is none that transformers takes ({' '.join(str(error).split())[:200]}); restore it."
        ) from None
    if isinstance(config, SparseCSEConfig):
        model_config = config
        _check_entries(files, name, config)
        _check_surplus(files, name, config, tensors)
    else:
        values = {**config.to_dict(), "model_type": config.model_type}
        has_pooler = {"pooler.dense.weight", "pooler.dense.bias"} <= tensors.keys()
        model_config = config_from_family(values, has_pooler, files.source)
        tensors = state_from_family(tensors, model_config)
    if model_config.pad_token_id >= model_config.vocab_size:
        raise InputError(
            f"{files.source}/{name}: pad_token_id is {model_config.pad_token_id}, and vocab_size {config.vocab_size}; "
            f"it must be below."
        )
    _check_tensors(files, name, model_config, tensors, lambda key: _own_name(family, key, settings))
    _check_kept_heads(files, name, model_config)
    _check_positions(files, name, model_config)
    if model_config.max_position_embeddings - model_config.position_offset < 3:
        raise InputError(
            f"{files.source}/{name}: max_position_embeddings is {model_config.max_position_embeddings} and positions "
            f"begin at {model_config.position_offset}; a text needs 3 of them."
        )
    return config


def _unprefixed(files: ModelFiles, tensors: Mapping[str, Stored], words: str) -> dict[str, Stored]:
    """The tensors without what a model with a head puts before their names ("bert."), under today's names.

    words: the name without it of the embeddings of tokens.
    """
    prefix = next((name.removesuffix(words) for name in tensors if name.endswith(words)), None)
    if prefix is None:
        file = next((one.file for one in tensors.values()), "")
        raise InputError(f"{files.source}/{file} has no {words}; copy the whole model again.")
    bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return {re.sub(r"\bgamma$", "weight", re.sub(r"\bbeta$", "bias", name)): one for name, one in bare.items()}


def _check_depth(
    files: ModelFiles, name: str, settings: Mapping[str, Any], tensors: Mapping[str, Stored], family: Family
) -> None:
    """Raise `InputError` for more layers than the weights have: transformers would build them all."""
    key = _own_name(family, "num_hidden_layers", settings)
    layer = re.compile(re.escape(family.layer).replace(r"\{\}", r"(\d+)"))
    found = {match[1] for match in map(layer.match, tensors) if match}
    asked = settings.get(key)
    if asked is not None and asked > len(found):
        raise InputError(
            f"{files.source}/{name}: {key} is {shown(asked)}, and {next(iter(tensors.values())).file} has {len(found)} "
            f"layers; the two do not belong together."
        )


def _own_name(family: Family, key: str, settings: Mapping[str, Any]) -> str:
    """How a file calls one of our settings."""
    other = family.groups or key if key == "key_value_heads" else family.config_names.get(key, key)
    return other if other in settings else key


def _check_kept_heads(files: ModelFiles, name: str, config: SparseCSEConfig) -> None:
    kept, sizes = config.kept_heads, config.layer_sizes()
    if kept is None:
        return
    known = range(config.hidden_size // config.attention_head_size)
    for layer, heads in enumerate(kept):
        if not all(type(head) is int and head in known for head in heads) or len(set(heads)) < len(heads):
            raise InputError(
                f"{files.source}/{name}: kept_heads has {shown(heads)} for layer {layer}; they must be different heads "
                f"from 0 to {len(known) - 1}."
            )
    if [len(heads) for heads in kept] != [heads for heads, _ in sizes]:
        raise InputError(
            f"{files.source}/{name}: kept_heads names {shown([len(heads) for heads in kept])} heads, and the layers "
            f"have {shown([heads for heads, _ in sizes])}."
        )


def _check_entries(files: ModelFiles, name: str, config: SparseCSEConfig) -> None:
    """Raise `InputError` for lists that do not have what they must have for each layer."""
    place = f"{files.source}/{name}"
    for key in ("rotary_bases", "attention_windows", "key_value_heads"):
        values = getattr(config, key)
        if values is not None and len(values) != config.num_hidden_layers:
            raise InputError(
                f"{place}: {key} has {len(values)} entries, and num_hidden_layers is {config.num_hidden_layers}; the "
                f"two do not belong together."
            )
    for layer, sources in enumerate(config.key_value_heads or []):
        heads, _ = config.layer_sizes()[layer]
        rising = all(high - low in (0, 1) for low, high in pairwise(sources)) and sources[:1] in ([], [0])
        if len(sources) != heads or not rising:
            raise InputError(
                f"{place}: key_value_heads has {shown(sources)} for layer {layer} with {heads} heads; it must say of "
                f"each, from 0 and ascending without a gap, which key and value it looks at."
            )


def _check_positions(files: ModelFiles, name: str, config: SparseCSEConfig) -> None:
    """Raise `InputError` for ways of knowing positions that exclude each other."""
    place = f"{files.source}/{name}"
    for key in ("attention_windows", "causal"):
        if getattr(config, key) and config.relative_attention_num_buckets:
            raise InputError(f"{place}: {key} and relative_attention_num_buckets exclude each other; restore the file.")
    if config.rotary_bases is not None and config.attention_head_size % 2:
        raise InputError(
            f"{place}: num_attention_heads makes heads of {config.attention_head_size} values, and rotary positions "
            f"turn pairs of them; restore the file."
        )


_Size = tuple[str, int]
_EMBEDDINGS = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}


def _shapes(config: SparseCSEConfig) -> Iterator[tuple[str, tuple[_Size, ...], bool]]:
    """For each tensor of a model its name, its shape, with the settings that it follows from, and if int8 can hold it.

    Those that decide most come first.
    """
    hidden = ("hidden_size", config.hidden_size)

    def linear(
        name: str, rows: _Size, columns: _Size, bias: bool = True
    ) -> Iterator[tuple[str, tuple[_Size, ...], bool]]:
        if columns[1]:
            yield f"{name}.weight", (rows, columns), True
        if bias:
            yield f"{name}.bias", (rows,), False

    def norm(name: str, size: _Size = hidden) -> Iterator[tuple[str, tuple[_Size, ...], bool]]:
        parts = ("weight", "bias") if config.norm_bias and config.norm == "LayerNorm" else ("weight",)
        return ((f"{name}.{part}", (size,), False) for part in parts)

    for name, key in _EMBEDDINGS.items():
        if (rows := getattr(config, key)) and not (name == "position" and config.rotary_bases is not None):
            yield f"embeddings.{name}_embeddings.weight", ((key, rows), hidden), True
    if config.embedding_norm:
        yield from norm("embeddings.LayerNorm")
    if buckets := config.relative_attention_num_buckets:
        all_heads = ("hidden_size // attention_head_size", config.hidden_size // config.attention_head_size)
        yield (
            "encoder.relative_attention_bias.weight",
            (("relative_attention_num_buckets", buckets), all_heads),
            True,
        )
    for i, (heads, neurons) in enumerate(config.layer_sizes()):
        layer = f"encoder.layer.{i}"
        channels = (f"num_attention_heads * attention_head_size of layer {i}", heads * config.attention_head_size)
        inner = (f"intermediate_size of layer {i}", neurons)
        if heads:
            shared = channels
            if config.key_value_heads is not None:
                pairs = config.key_value_heads[i][-1] + 1
                shared = (f"key_value_heads * attention_head_size of layer {i}", pairs * config.attention_head_size)
            for part, rows in (("query", channels), ("key", shared), ("value", shared)):
                yield from linear(f"{layer}.attention.self.{part}", rows, hidden, config.attention_bias)
            for part in ("query", "key") if config.query_key_norm else ():
                yield from norm(
                    f"{layer}.attention.self.{part}_norm", ("attention_head_size", config.attention_head_size)
                )
        yield from linear(f"{layer}.attention.output.dense", hidden, channels, config.attention_bias)
        if neurons:
            for part in ("dense", "value") if config.gated else ("dense",):
                yield from linear(f"{layer}.intermediate.{part}", inner, hidden, config.feed_forward_bias)
        yield from linear(f"{layer}.output.dense", hidden, inner, config.feed_forward_bias)
        if config.norm_outputs or not config.norm_first:
            yield from norm(f"{layer}.attention.output.LayerNorm")
            yield from norm(f"{layer}.output.LayerNorm")
        if not config.norm_first:
            continue
        if heads and (i > 0 or config.first_attention_norm):
            yield from norm(f"{layer}.attention.self.LayerNorm")
        if neurons:
            yield from norm(f"{layer}.intermediate.LayerNorm")
    if config.norm_first:
        yield from norm("encoder.LayerNorm")
    if config.has_pooler:
        yield from linear("pooler.dense", hidden, hidden)


def _check_surplus(files: ModelFiles, name: str, config: SparseCSEConfig, tensors: Mapping[str, Stored]) -> None:
    """Raise `InputError` where our own file has more than its configuration, which then cuts off what was kept."""
    known = {tensor for tensor, _, _ in _shapes(config)}
    more = min((tensor for tensor in tensors if tensor.removesuffix("_scale") not in known), default=None)
    if more is not None:
        raise InputError(
            f"{files.source}/{tensors[more].file} has {more}, which {name} has no place for (num_hidden_layers, "
            f"per_layer_config, intermediate_size, num_attention_heads, has_pooler, norm_bias, attention_bias, "
            f"feed_forward_bias, embedding_norm, norm_first, norm_outputs, gated, query_key_norm, key_value_heads, "
            f"rotary_bases); the two do not belong together."
        )


def _check_tensors(
    files: ModelFiles,
    name: str,
    config: SparseCSEConfig,
    tensors: Mapping[str, Stored],
    own_name: Callable[[str], str],
) -> None:
    """Raise `InputError` for the first tensor of a model that is missing, of another shape or of no floats."""
    for tensor, sizes, matrix in _shapes(config):
        found, wanted = tensors.get(tensor), tuple(size for _, size in sizes)
        if found is None:
            file = next(iter(tensors.values())).file
            raise InputError(
                f"{files.source}/{file} has no {tensor}, which {name} asks for; the two do not belong together."
            )
        if found.shape != wanted:
            differ = [i for i, size in enumerate(wanted) if len(found.shape) != len(wanted) or found.shape[i] != size]
            key, value = sizes[differ[0]]
            key = re.sub("[a-z_]{9,}", lambda word: own_name(word[0]), key)
            raise InputError(
                f"{files.source}/{name}: {key} is {shown(value)}, so that {tensor} is of shape "
                f"{shown(list(wanted))}, and in {found.file} it has {shown(list(found.shape))}; the two do not belong "
                f"together."
            )
        as_int8 = matrix and config.weight_storage == "int8"
        if found.dtype != "int8" if as_int8 else not found.is_float:
            raise InputError(
                f"{files.source}/{found.file}: {tensor} holds {found.dtype}, and {name} makes it "
                f"{'int8 (weight_storage)' if as_int8 else 'floats'}; the two do not belong together."
            )
