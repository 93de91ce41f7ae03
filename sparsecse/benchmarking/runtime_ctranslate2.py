"""Runtime "ctranslate2": its Transformer encoder, which removes padding by itself; pooling is done here, in numpy.

The specification is filled from our own state dictionary: ctranslate2's converter knows few families and no packed
model. int8 is ctranslate2's own: weights by rows, activations by tokens, as they come.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsecse.benchmarking.runtimes import Runtime, Setup
from sparsecse.errors import InputError

if "torch" not in sys.modules:
    # ctranslate2 imports torch for its converters where it can, 200 MB that running a model does not need.
    sys.modules["torch"] = None  # type: ignore[assignment]
import ctranslate2
from ctranslate2.specs import common_spec, transformer_spec

if TYPE_CHECKING:
    from sparsecse.encoders import Encoder, SparseCSEConfig

_ACTIVATIONS = {
    "gelu": common_spec.Activation.GELU,
    "gelu_new": common_spec.Activation.GELUTanh,
    "gelu_pytorch_tanh": common_spec.Activation.GELUTanh,
    "relu": common_spec.Activation.RELU,
    "silu": common_spec.Activation.SWISH,
    "swish": common_spec.Activation.SWISH,
}
_SETTINGS_FILE, _POOLER_FILE = "pooling.json", "pooler.npz"


class _CTranslate2:
    """pooler: weight [hidden, hidden] and bias [hidden] of the linear layer before tanh; only for that pooling."""

    def __init__(self, model: ctranslate2.Encoder, pooling: str, normalize: bool, pooler: Mapping[str, np.ndarray]):
        self._model, self._pooling, self._normalize, self._pooler = model, pooling, normalize, pooler

    def encode_ids(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
        hidden = np.asarray(self._model.forward_batch(token_ids).last_hidden_state)
        if self._pooling == "mean":
            lengths = np.array([len(ids) for ids in token_ids])
            mask = (np.arange(hidden.shape[1]) < lengths[:, None]).astype(np.float32)
            vectors = (mask[:, None, :] @ hidden)[:, 0] / lengths[:, None].astype(np.float32)
        else:
            vectors = hidden[:, 0]
            if self._pooling == "pooler":
                vectors = np.tanh(vectors @ self._pooler["weight"].T + self._pooler["bias"])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if self._normalize else vectors


def convert(encoder: Encoder, precision: str, sentences: Sequence[str], folder: Path) -> Path:
    """Write the model in ctranslate2's format, and beside it how to pool.

    Raises:
        InputError: ctranslate2 has no encoder of this kind.
    """
    config = encoder.model.config
    if reason := _unsupported(encoder):
        raise InputError(f"{encoder.source}: ctranslate2 has {reason}; leave out that runtime or that model.")
    # Copies: ctranslate2 quantises in place.
    state = {name: tensor.float().cpu().numpy().copy() for name, tensor in encoder.model.state_dict().items()}
    spec = _specification(config, state)
    spec.validate()
    spec.optimize(precision)
    target = folder / precision
    target.mkdir()
    spec.save(str(target))
    settings = {"pooling": encoder.settings.pooling, "normalize": encoder.settings.normalize}
    (target / _SETTINGS_FILE).write_text(json.dumps(settings), encoding="utf-8")
    if encoder.settings.pooling == "pooler":
        np.savez(target / _POOLER_FILE, weight=state["pooler.dense.weight"], bias=state["pooler.dense.bias"])
    return target


def load(setup: Setup) -> Runtime:
    """Load what `convert` wrote."""
    assert setup.converted is not None
    model = ctranslate2.Encoder(
        str(setup.converted), device="cpu", compute_type=setup.precision, inter_threads=1, intra_threads=setup.threads
    )
    settings = json.loads((setup.converted / _SETTINGS_FILE).read_text(encoding="utf-8"))
    pooler = setup.converted / _POOLER_FILE
    return _CTranslate2(model, **settings, pooler=np.load(pooler) if pooler.exists() else {})


def _unsupported(encoder: Encoder) -> str:
    """What the model has and ctranslate2 has not; "" where there is nothing."""
    from sparsecse.encoders.families import has_berts_layers  # torch is for what converts

    config, pooling = encoder.model.config, encoder.settings.pooling
    heads = {heads for heads, _ in config.layer_sizes()}
    if len(heads) > 1:
        return "no encoder whose layers differ in their number of heads"
    if 0 in heads or not all(neurons for _, neurons in config.layer_sizes()):
        return "no encoder with a layer that has lost all its heads or neurons"
    if config.relative_attention_num_buckets:
        return "no encoder with MPNet's relative attention biases"
    if not has_berts_layers(config):
        return f"no encoder with the layers of {config.original_model_type}"
    if config.hidden_act not in _ACTIVATIONS:
        return f"no activation '{config.hidden_act}'"
    if pooling == "first_last_avg":
        return "no way to the first layer's token vectors, which the pooling first_last_avg needs"
    if pooling not in ("mean", "cls", "pooler") or len(encoder.head):
        return f"no benchmark here with {pooling} pooling and {len(encoder.head)} Dense modules"
    return ""


def _specification(config: SparseCSEConfig, state: Mapping[str, np.ndarray]) -> Any:
    encoder = transformer_spec.TransformerEncoderSpec(
        config.num_hidden_layers,
        config.layer_sizes()[0][0],
        pre_norm=False,
        activation=_ACTIVATIONS[config.hidden_act],
        layernorm_embedding=True,
        head_dim=config.attention_head_size,
    )
    encoder.scale_embeddings = False
    encoder.embeddings[0].weight = state["embeddings.word_embeddings.weight"]
    # Positions count from 0 in ctranslate2, and every token is of type 0.
    positions = state["embeddings.position_embeddings.weight"][config.position_offset :]
    if config.type_vocab_size:
        positions = positions + state["embeddings.token_type_embeddings.weight"][0]
    encoder.position_encodings.encodings = positions
    _set_norm(encoder.layernorm_embedding, state, "embeddings.LayerNorm")
    for i, layer in enumerate(encoder.layer):
        prefix = f"encoder.layer.{i}."
        projections = [f"{prefix}attention.self.{name}" for name in ("query", "key", "value")]
        _set_linear(layer.self_attention.linear[0], state, *projections)
        _set_linear(layer.self_attention.linear[1], state, f"{prefix}attention.output.dense")
        _set_norm(layer.self_attention.layer_norm, state, f"{prefix}attention.output.LayerNorm")
        _set_linear(layer.ffn.linear_0, state, f"{prefix}intermediate.dense")
        _set_linear(layer.ffn.linear_1, state, f"{prefix}output.dense")
        _set_norm(layer.ffn.layer_norm, state, f"{prefix}output.LayerNorm")
    spec = transformer_spec.TransformerEncoderModelSpec(encoder)
    spec.config.layer_norm_epsilon = config.layer_norm_eps
    # Sentences come as token ids; a vocabulary is part of the format all the same.
    spec.register_vocabulary([f"<{token}>" for token in range(config.vocab_size)])
    return spec


def _set_linear(spec: Any, state: Mapping[str, np.ndarray], *names: str) -> None:
    """One linear layer, or several that share their input, one below the other."""
    spec.weight = np.concatenate([state[f"{name}.weight"] for name in names])
    spec.bias = np.concatenate([state[f"{name}.bias"] for name in names])


def _set_norm(spec: Any, state: Mapping[str, np.ndarray], name: str) -> None:
    spec.gamma, spec.beta = state[f"{name}.weight"], state[f"{name}.bias"]
