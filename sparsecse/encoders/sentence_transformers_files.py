"""The files that make a folder a sentence-transformers model, written beside our weights.

sentence-transformers itself is not needed. What it can express with its own modules is written with them: SimCSE's
pooler is a Dense module with tanh, the first-last average a WeightedLayerPooling.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sparsecse.encoders.head import Dense
from sparsecse.encoders.pooling import first_last_weights
from sparsecse.encoders.sentence_transformers_settings import (
    MODEL_FILE,
    MODULES_FILE,
    POOLING_FLAGS,
    TRANSFORMER_FILES,
)
from sparsecse.encoders.settings import EncoderSettings
from sparsecse.files import write_json

_MODULE_PREFIX = "sentence_transformers.models."
# Written whatever the mode; the other flags only where they are set, as earlier releases do not know them.
_FLAGS_OF_ALL = (
    "pooling_mode_cls_token",
    "pooling_mode_mean_tokens",
    "pooling_mode_max_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
)


def write_settings(
    directory: Path, settings: EncoderSettings, hidden_size: int, num_layers: int, head: Iterable[Dense]
) -> None:
    """Write modules.json and what it names into a folder that holds a transformers model.

    Args:
        directory: the model's folder, being written.
        settings: pooling, normalisation, length, lower-casing, prompts, similarity and width.
        hidden_size: width of the token vectors.
        num_layers: layers of the model, for the first-last average.
        head: the Dense modules after pooling, the checkpoint's pooler as the first for pooling "pooler".
    """
    modules: list[tuple[str, str]] = [("Transformer", "")]

    def add(kind: str, config: dict[str, Any] | None = None, weights: dict[str, torch.Tensor] | None = None) -> None:
        folder = f"{len(modules)}_{kind}"
        modules.append((kind, folder))
        (directory / folder).mkdir()
        if config is not None:
            write_json(directory / folder / "config.json", config)
        if weights is not None:
            save_file(weights, directory / folder / "model.safetensors")

    if settings.pooling == "first_last_avg":
        add(
            "WeightedLayerPooling",
            {"word_embedding_dimension": hidden_size, "layer_start": 1, "num_hidden_layers": num_layers},
            {"layer_weights": first_last_weights(num_layers)},
        )
    mode = {"pooler": "cls", "first_last_avg": "mean"}.get(settings.pooling, settings.pooling)
    flags = {flag: True for flag, name in POOLING_FLAGS.items() if name == mode}
    add("Pooling", {"word_embedding_dimension": hidden_size, **dict.fromkeys(_FLAGS_OF_ALL, False), **flags})
    for dense in head:
        linear = dense.linear
        add(
            "Dense",
            {
                "in_features": linear.in_features,
                "out_features": linear.out_features,
                "bias": linear.bias is not None,
                "activation_function": dense.activation_name,
            },
            {f"linear.{name}": tensor.contiguous() for name, tensor in linear.state_dict().items()},
        )
    if settings.normalize:
        add("Normalize")
    write_json(
        directory / MODULES_FILE,
        [
            {"idx": i, "name": str(i), "path": folder, "type": _MODULE_PREFIX + kind}
            for i, (kind, folder) in enumerate(modules)
        ],
    )
    write_json(
        directory / TRANSFORMER_FILES[0], {"max_seq_length": settings.max_length, "do_lower_case": settings.lower_case}
    )
    write_json(
        directory / MODEL_FILE,
        {
            "prompts": dict(settings.prompts),
            "default_prompt_name": settings.default_prompt,
            "similarity_fn_name": settings.similarity,
            **({} if settings.truncate_dim is None else {"truncate_dim": settings.truncate_dim}),
        },
    )
