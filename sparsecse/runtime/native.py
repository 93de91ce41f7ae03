"""An encoder's weights, handed to the native inference encoder."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from sparsecse.encoders import Encoder, SparseCSEConfig, SparseCSEModel
from sparsecse.encoders.families import has_berts_layers
from sparsecse.encoders.modeling_sparsecse import rotation
from sparsecse.kernels import dispatch
from sparsecse.runtime.calibration import LayerScales

# transformers' names of activations -> the native ones.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}

# What layers may have besides BERT's, in float32.
_IN_FLOAT32 = (
    *("norm_first", "norm_bias", "attention_bias", "feed_forward_bias", "gated"),
    *("rotary_bases", "attention_windows"),
)

_REFERENCE = "SPARSECSE_KERNELS is reference"
_MISSING = "the compiled extension is missing"


def obstacle(model: SparseCSEModel) -> str | None:
    """Why this model cannot run natively, as a clause; None where it can."""
    if model.device.type != "cpu":
        return f"the model is on {model.device}"
    if os.environ.get("SPARSECSE_KERNELS") == "reference":
        return _REFERENCE
    if dispatch.native_extension() is None:
        return _MISSING
    if not has_berts_layers(model.config, _IN_FLOAT32):
        return f"{model.config.original_model_type} layers have no native version"
    if model.config.hidden_act not in ACTIVATIONS:
        return f"the activation {model.config.hidden_act} has no native version"
    return None


@cache
def warn_once(obstacle: str) -> None:
    """Say that PyTorch computes instead on the CPU, once for each reason, unless it is known already.

    Of a missing extension dispatch has warned, and the reference was asked for.
    """
    if obstacle in (_REFERENCE, _MISSING):
        return
    warnings.warn(f"sparsecse embeds through PyTorch, slower, as {obstacle}.", RuntimeWarning, stacklevel=3)


def computes_in(precision: str, config: SparseCSEConfig | None = None) -> bool:
    """Whether this machine computes in a precision natively, and layers of a model without an `obstacle` too."""
    extension = dispatch.native_extension()
    if extension is None or not extension.computes_in(precision, dispatch.cpu_level()):
        return False
    return config is None or precision == "float32" or has_berts_layers(config)


def with_own_embeddings(encoder: Encoder) -> Encoder:
    """The same layers with a copy of the embeddings, which a native encoder reads where they lie."""
    shared: dict[int, Any] = {id(parameter): parameter for parameter in encoder.model.encoder.parameters()}
    return Encoder(copy.deepcopy(encoder.model, shared), encoder.tokenizer, encoder.settings, encoder.source)


def lend_embeddings(model: SparseCSEModel) -> None:
    """Let a model's embeddings only borrow their memory, which stays for the native encoder that has been built of it.

    torch.multiprocessing moves the storage of a tensor that it sends into shared memory, and frees what it had.
    """
    for parameter in model.embeddings.parameters():
        if parameter.dtype == torch.float32:  # others have been copied
            parameter.data = torch.from_numpy(parameter.detach().numpy())


def build(model: SparseCSEModel, precision: str, scales: Sequence[LayerScales] | None = None) -> Any:
    """A `sparsecse._native.Encoder` with this model's weights as they are now, in that precision.

    It keeps a copy of the layers, and reads the embeddings where they lie.

    scales: of each layer, from `calibrate`; for int8.
    """
    extension = dispatch.native_extension()
    assert extension is not None
    config, embeddings = model.config, model.embeddings
    # Token types are always 0 here, so that their row is one more constant.
    types = embeddings.token_type_embeddings.weight[0] if embeddings.has_token_types else None
    before, norms = _norms(model)
    native = extension.Encoder(
        head_size=config.attention_head_size,
        precision=precision,
        activation=ACTIVATIONS[config.hidden_act],
        eps=config.layer_norm_eps,
        positions=config.max_position_embeddings,
        position_offset=config.position_offset,
        pad_token=config.pad_token_id,
        norm_first=config.norm_first,
        word=_floats(embeddings.word_embeddings.weight),
        position=_floats(embeddings.position_embeddings.weight) if embeddings.has_positions else None,
        type=None if types is None else _floats(types),
        **_named("norm", embeddings.LayerNorm),
        **_named("input_norm", before),
        level=dispatch.cpu_level(),
    )
    relative = None
    if config.relative_attention_num_buckets:
        reach = config.max_position_embeddings
        relative = model.encoder.relative_bias(torch.arange(1 - reach, reach, device=model.device))
    scales = scales or [LayerScales(None, None)] * len(model.encoder.layer)
    spans, turns = _spans(config), _turns(config)
    for index, (layer, sizes) in enumerate(zip(model.encoder.layer, config.layer_sizes(), strict=True)):
        own = relative if relative is None or config.kept_heads is None else relative[config.kept_heads[index]]
        attention_norm, output_norm = norms[index]
        native.add_layer(
            **_layer(layer, sizes, scales[index]),
            **_named("attention_norm", attention_norm),
            **_named("output_norm", output_norm),
            relative_bias=_floats(own) if sizes[0] and own is not None else None,
            span=spans[index],
            turns=turns[index],
        )
    return native


def _norms(model: SparseCSEModel) -> tuple[Any, list[tuple[Any, Any]]]:
    """What normalises after the embeddings' own norm, and in each layer after each half's sum; None where nothing does.

    Where norms come first, that is the one before the half that follows, and after the last layer the model's own.
    """
    layers = model.encoder.layer
    if not model.config.norm_first:
        return None, [(layer.attention.output.LayerNorm, layer.output.LayerNorm) for layer in layers]
    halves = [half for layer in layers for half in (layer.attention.self, layer.intermediate)]
    before = [None if half is None else half.LayerNorm for half in halves]
    first, *after = *before, model.encoder.LayerNorm
    return first, list(zip(after[::2], after[1::2], strict=True))


def _spans(config: SparseCSEConfig) -> list[int]:
    """For each layer, how near a token is that another one sees: less than this; 0 for all."""
    windows = config.attention_windows or [None] * config.num_hidden_layers
    return [0 if window is None else min(window, config.max_position_embeddings) + 1 for window in windows]


def _turns(config: SparseCSEConfig) -> list[np.ndarray | None]:
    """For each layer the cosines and sines of its angles, [positions, head_size]; layers of one base share theirs."""
    if config.rotary_bases is None:
        return [None] * config.num_hidden_layers
    positions, half = torch.arange(config.max_position_embeddings), config.attention_head_size // 2
    turns = {}
    for base in set(config.rotary_bases):
        parts = rotation(base, positions, config.attention_head_size)
        turns[base] = _floats(torch.cat([part[:, 0, :half] for part in parts], dim=-1))
    return [turns[base] for base in config.rotary_bases]


def _layer(layer: Any, sizes: tuple[int, int], scales: LayerScales) -> dict[str, Any]:
    heads, neurons = sizes
    attention, inner = layer.attention, layer.intermediate
    projections = [attention.self.query, attention.self.key, attention.self.value] if heads else []
    biases = [p.bias for p in projections if p.bias is not None]
    return {
        "heads": heads,
        "neurons": neurons,
        "qkv": _scaled(torch.cat([p.weight for p in projections]), scales.qkv) if heads else None,
        "qkv_bias": _floats(torch.cat(biases)) if biases else None,
        **_named("attention_output", attention.output.dense),
        "up": _scaled(inner.dense.weight, scales.up) if neurons else None,
        "up_bias": _floats(inner.dense.bias) if neurons and inner.dense.bias is not None else None,
        **_named("up_value", inner.value if neurons else None),
        **_named("down", layer.output.dense),
        "qkv_scale": None if scales.qkv is None else _floats(1 / scales.qkv),
        "up_scale": None if scales.up is None else _floats(1 / scales.up),
    }


def _named(name: str, module: Any) -> dict[str, Any]:
    """The weight and the bias of a module as arguments of that name; None for what it has not."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    return {
        name: None if weight is None else _floats(weight),
        f"{name}_bias": None if bias is None else _floats(bias),
    }


def _floats(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy()


def _scaled(weight: torch.Tensor, scales: torch.Tensor | None) -> np.ndarray:
    return _floats(weight if scales is None else weight * scales)
