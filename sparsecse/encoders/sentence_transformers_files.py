"""The files that make a folder a sentence-transformers model: read for their settings, written beside our weights.

sentence-transformers itself is not needed. What it can express with its own modules is written with them: SimCSE's
pooler is a Dense module with tanh, the first-last average a WeightedLayerPooling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sparsecse.encoders.settings import EncoderSettings
from sparsecse.errors import InputError
from sparsecse.files import read_json, write_json

ReadFile = Callable[[str], Path | None]
"""Maps a file name inside a model to a local path, or to None where the model has no such file."""

_MODULE_PREFIX = "sentence_transformers.models."
_TANH = "torch.nn.modules.activation.Tanh"
_LENGTH_FILES = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json")


@dataclass(frozen=True)
class FolderSettings:
    """What a model's own files say; None where they say nothing.

    pooler: state of the linear layer of a `Dense` module with tanh, which takes the place of the checkpoint's pooler.
    """

    pooling: str | None = None
    normalize: bool | None = None
    max_length: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    pooler: Mapping[str, torch.Tensor] | None = None


class _Modules:
    """The modules of one sentence-transformers model, in their order."""

    def __init__(self, read_file: ReadFile, source: str):
        self._read_file, self._source = read_file, source
        path = read_file("modules.json")
        assert path is not None
        self.folders = {module["type"].rpartition(".")[2]: module["path"] for module in read_json(path)}

    def file(self, kind: str, name: str) -> Path:
        folder = self.folders[kind]
        path = self._read_file(f"{folder}/{name}")
        if path is None:
            raise InputError(f"{self._source}: {folder}/{name} is missing; restore it or copy the whole model again.")
        return path

    def max_length(self) -> int | None:
        folder = self.folders["Transformer"]
        for name in _LENGTH_FILES:
            path = self._read_file(f"{folder}/{name}" if folder else name)
            if path is not None:
                return read_json(path).get("max_seq_length")
        return None

    def token_pooling(self) -> str:
        """cls or mean; anything else is refused."""
        config = read_json(self.file("Pooling", "config.json"))
        mode = config.get("pooling_mode")
        if mode is None:
            modes = [name for name, on in config.items() if name.startswith("pooling_mode_") and on is True]
            mode = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}.get("+".join(modes), modes)
        if mode not in ("cls", "mean"):
            raise InputError(
                f"{self._source}/{self.folders['Pooling']}/config.json pools with {mode}; "
                f"sparsecse supports mean and cls in a sentence-transformers folder."
            )
        return mode

    def pooling(self) -> tuple[str, Mapping[str, torch.Tensor] | None]:
        """A key of `POOLING_MODES`, and the pooler's state where it is a module of its own."""
        kinds = tuple(kind for kind in self.folders if kind != "Normalize")
        mode = self.token_pooling() if "Pooling" in kinds else None
        if kinds == ("Transformer", "Pooling"):
            return str(mode), None
        if kinds == ("Transformer", "Pooling", "Dense") and mode == "cls":
            config = read_json(self.file("Dense", "config.json"))
            if config["activation_function"] == _TANH and config["in_features"] == config["out_features"]:
                state = load_file(self.file("Dense", "model.safetensors"))
                return "pooler", {name.removeprefix("linear."): tensor for name, tensor in state.items()}
        if kinds == ("Transformer", "WeightedLayerPooling", "Pooling") and mode == "mean":
            weights = load_file(self.file("WeightedLayerPooling", "model.safetensors"))["layer_weights"]
            if torch.equal(weights, _first_last_weights(len(weights))):
                return "first_last_avg", None
        raise InputError(
            f"{self._source}: modules.json names {' + '.join(self.folders)}, which sparsecse does not support; it "
            f"takes Transformer + Pooling, a Dense tanh layer of equal width after cls pooling, and Normalize."
        )


def _first_last_weights(num_layers: int) -> torch.Tensor:
    weights = torch.zeros(num_layers)
    weights[0] += 0.5
    weights[-1] += 0.5
    return weights


def read_settings(read_file: ReadFile, source: str) -> FolderSettings:
    """Read pooling, normalisation, length limit and prompts from a model's files.

    Args:
        read_file: finds a file of the model.
        source: the model's name, for messages.

    Raises:
        InputError: the files name modules or a pooling that sparsecse does not have.
    """
    prompts: dict[str, str] = {}
    default = None
    if path := read_file("config_sentence_transformers.json"):
        content = read_json(path)
        prompts = {name: text for name, text in (content.get("prompts") or {}).items() if text}
        default = content.get("default_prompt_name")
    if read_file("modules.json") is None:
        return FolderSettings(prompts=prompts, default_prompt=default if default in prompts else None)
    modules = _Modules(read_file, source)
    pooling, pooler = modules.pooling()
    return FolderSettings(
        pooling=pooling,
        normalize="Normalize" in modules.folders,
        max_length=modules.max_length(),
        prompts=prompts,
        default_prompt=default if default in prompts else None,
        pooler=pooler,
    )


def write_settings(
    directory: Path, settings: EncoderSettings, hidden_size: int, num_layers: int, pooler: torch.nn.Linear | None
) -> None:
    """Write modules.json and what it names into a folder that holds a transformers model.

    Args:
        directory: the model's folder, being written.
        settings: pooling, normalisation, length and prompts.
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
            {"layer_weights": _first_last_weights(num_layers)},
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
        directory / "modules.json",
        [
            {"idx": i, "name": str(i), "path": folder, "type": _MODULE_PREFIX + kind}
            for i, (kind, folder) in enumerate(modules)
        ],
    )
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": settings.max_length, "do_lower_case": False})
    write_json(
        directory / "config_sentence_transformers.json",
        {
            "prompts": dict(settings.prompts),
            "default_prompt_name": settings.default_prompt,
            "similarity_fn_name": "cosine",
        },
    )
