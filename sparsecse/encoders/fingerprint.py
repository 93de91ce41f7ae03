"""The identity of an encoder: a hash of its weights, sizes, settings and tokenizer, wherever it was loaded from."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import torch

from sparsecse.encoders.encoder import Encoder

# What decides vectors and is in no tensor.
_COMPUTED_BY = (
    "hidden_act",
    "layer_norm_eps",
    "position_offset",
    "kept_heads",
    "norm",
    "norm_first",
    "norm_outputs",
    "embedding_scale",
    "key_value_heads",
    "rotary_bases",
    "attention_windows",
    "causal",
)
_TEXT = "What is a vector? It's 3 numbers, or more."


def fingerprint(encoder: Encoder) -> str:
    """SHA-256 in hex; equal for encoders that compute the same vectors from the same texts."""
    digest = hashlib.sha256()
    for name, tensor in sorted({**encoder.model.state_dict(), **encoder.head.state_dict(prefix="head.")}.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    config = encoder.model.config
    rest = [dataclasses.asdict(encoder.settings), config.layer_sizes()]
    rest += [dense.activation_name for dense in encoder.head]
    rest += [getattr(config, name) for name in _COMPUTED_BY]
    rest += encoder.tokenize([_TEXT], prompt="")  # what splits texts, and the tokens put around them
    digest.update(json.dumps(rest, sort_keys=True).encode())
    digest.update(json.dumps(encoder.tokenizer.get_vocab(), sort_keys=True).encode())
    return digest.hexdigest()
