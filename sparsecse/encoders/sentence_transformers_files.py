"""The files that make a folder a sentence-transformers model, written beside our weights.

sentence-transformers itself is not needed. What it can express with its own modules is written with them: SimCSE's
pooler is a Dense module with tanh, the first-last average a WeightedLayerPooling.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sparsecse.encoders.pooling import first_last_weights
from sparsecse.encoders.sentence_transformers_settings import MODEL_FILE, MODULES_FILE, TRANSFORMER_FILES
from sparsecse.encoders.settings import EncoderSettings
from sparsecse.files import write_json

_MODULE_PREFIX = "sentence_transformers.models."
_TANH = "torch.nn.modules.activation.Tanh"


def write_settings(
    directory: Path, settings: EncoderSettings, hidden_size: int, num_layers: int, pooler: torch.nn.Linear | None
) -> None:
    """Write modules.json and what it names into a folder that holds a transformers model.

    Args:
        directory: the model's folder, being written.
        settings: pooling, normalisation, length, lower-casing, prompts, similarity and width.
        hidden_size: width of the sentence vector.
        num_layers: layers of the model, for the first-last average.
        pooler: the checkpoint's pooler, needed for pooling "pooler".
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
    add(
        "Pooling",
        {
            "word_embedding_dimension": hidden_size,
            "pooling_mode_cls_token": settings.pooling in ("cls", "pooler"),
            "pooling_mode_mean_tokens": settings.pooling in ("mean", "first_last_avg"),
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    if settings.pooling == "pooler":
        assert pooler is not None
        add(
            "Dense",
            {
                "in_features": hidden_size,
                "out_features": hidden_size,
                "bias": True,
                "activation_function": _TANH,
            },
            {"linear.weight": pooler.weight.detach().contiguous(), "linear.bias": pooler.bias.detach()},
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
