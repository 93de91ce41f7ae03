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
from torch import nn

from sparsecse.encoders import Encoder, SparseCSEModel
from sparsecse.encoders.families import has_berts_layers
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
    if not has_berts_layers(model.config):
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


def computes_in(precision: str) -> bool:
    """Whether this machine computes in a precision natively."""
    extension = dispatch.native_extension()
    return extension is not None and extension.computes_in(precision, dispatch.cpu_level())


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
    native = extension.Encoder(
        head_size=config.attention_head_size,
        precision=precision,
        activation=ACTIVATIONS[config.hidden_act],
        eps=config.layer_norm_eps,
        position_offset=config.position_offset,
        pad_token=config.pad_token_id,
        word=_floats(embeddings.word_embeddings.weight),
        position=_floats(embeddings.position_embeddings.weight),
        type=None if types is None else _floats(types),
        norm_weight=_floats(embeddings.LayerNorm.weight),
        norm_bias=_floats(embeddings.LayerNorm.bias),
        level=dispatch.cpu_level(),
    )
    relative = None
    if config.relative_attention_num_buckets:
        reach = config.max_position_embeddings
        relative = model.encoder.relative_bias(torch.arange(1 - reach, reach, device=model.device))
    scales = scales or [LayerScales(None, None)] * len(model.encoder.layer)
    for index, (layer, sizes) in enumerate(zip(model.encoder.layer, config.layer_sizes(), strict=True)):
        own = relative if relative is None or config.kept_heads is None else relative[config.kept_heads[index]]
        native.add_layer(**_layer(layer, sizes, scales[index], own))
    return native


def _layer(
    layer: Any, sizes: tuple[int, int], scales: LayerScales, relative_bias: torch.Tensor | None
) -> dict[str, Any]:
    heads, neurons = sizes
    attention, output = layer.attention, layer.output
    projections = [attention.self.query, attention.self.key, attention.self.value] if heads else []
    return {
        "heads": heads,
        "neurons": neurons,
        "qkv": _scaled(torch.cat([p.weight for p in projections]), scales.qkv) if heads else None,
        "qkv_bias": _floats(torch.cat([p.bias for p in projections])) if heads else None,
        "attention_output": _weight(attention.output.dense),
        "attention_output_bias": _floats(attention.output.dense.bias),
        "attention_norm_weight": _floats(attention.output.LayerNorm.weight),
        "attention_norm_bias": _floats(attention.output.LayerNorm.bias),
        "up": _scaled(layer.intermediate.dense.weight, scales.up) if neurons else None,
        "up_bias": _floats(layer.intermediate.dense.bias) if neurons else None,
        "down": _weight(output.dense),
        "down_bias": _floats(output.dense.bias),
        "output_norm_weight": _floats(output.LayerNorm.weight),
        "output_norm_bias": _floats(output.LayerNorm.bias),
        "qkv_scale": None if scales.qkv is None else _floats(1 / scales.qkv),
        "up_scale": None if scales.up is None else _floats(1 / scales.up),
        "relative_bias": _floats(relative_bias) if heads and relative_bias is not None else None,
    }


def _floats(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy()


def _weight(module: nn.Module) -> np.ndarray | None:
    return _floats(module.weight) if isinstance(module, nn.Linear) else None


def _scaled(weight: torch.Tensor, scales: torch.Tensor | None) -> np.ndarray:
    return _floats(weight if scales is None else weight * scales)
