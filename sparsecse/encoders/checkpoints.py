"""Load an encoder from a folder or a hub id, and write one that transformers and sentence-transformers load."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig
from transformers.utils import cached_file

from sparsecse.encoders.demo import named_source
from sparsecse.encoders.encoder import Encoder
from sparsecse.encoders.families import (
    config_from_family,
    config_to_family,
    family_of,
    state_from_family,
    state_to_family,
)
from sparsecse.encoders.modeling_sparsecse import Pooler, SparseCSEConfig, SparseCSEModel, stored_as_int8
from sparsecse.encoders.pooling import POOLING_MODES, pooling_mode
from sparsecse.encoders.sentence_transformers_files import FolderSettings, read_settings, write_settings
from sparsecse.encoders.settings import EncoderSettings
from sparsecse.errors import InputError

WEIGHTS_FILE = "model.safetensors"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}


def find_file(source: str, name: str) -> Path | None:
    """A file of a local folder or of a hub model, as a local path; None where the model has no such file."""
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.exists() else None
    subfolder, _, filename = name.rpartition("/")
    found = cached_file(
        source,
        filename,
        subfolder=subfolder,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(found) if found else None


def _read_config(source: str) -> dict[str, Any]:
    local = Path(source).is_dir()
    if local and not (Path(source) / "config.json").exists():
        raise InputError(f"{source} has no config.json; give a folder written by transformers' save_pretrained.")
    try:
        settings, _ = PretrainedConfig.get_config_dict(source)
    except (OSError, ValueError) as error:
        if local:
            raise InputError(f"{source} has a broken config.json; copy the model again.") from None
        raise InputError(
            f"{source} is neither a folder on this machine nor a hub model that can be reached "
            f"({str(error).splitlines()[0]}); check the path."
        ) from None
    if "model_type" not in settings:
        raise InputError(f"{source}: config.json has no model_type; give a folder that transformers wrote.")
    return settings


def _load_model(source: str) -> SparseCSEModel:
    settings = _read_config(source)
    if settings["model_type"] == SparseCSEConfig.model_type:
        return _from_pretrained(SparseCSEModel, source)
    family_of(settings["model_type"], source)
    stock, missing = _from_pretrained(AutoModel, source, with_missing=True)
    has_pooler = any(name.startswith("pooler.") for name in stock.state_dict()) and not any(
        "pooler" in n for n in missing
    )
    return from_stock(stock, has_pooler, source)


def from_stock(
    stock: Any, has_pooler: bool, source: str, model_class: type[SparseCSEModel] = SparseCSEModel
) -> SparseCSEModel:
    """A family's own model, dense and in memory, as ours; the tensors are shared, not copied.

    Args:
        stock: what `AutoModel` gives for a supported family.
        has_pooler: whether its pooler, if any, is taken over.
        source: its name, for messages.

    Raises:
        InputError: another family, a decoder, or a model that does not have the tensors of its configuration.
    """
    config = stock.config
    model_config = config_from_family({**config.to_dict(), "model_type": config.model_type}, has_pooler, source)
    with torch.device("meta"):
        model = model_class(model_config)
    state = state_from_family(stock.state_dict(), model_config)
    wanted = model.state_dict().keys()
    if not wanted <= state.keys():
        raise InputError(
            f"{source} is a {type(stock).__name__} without {min(wanted - state.keys())}; give what AutoModel loads."
        )
    model.load_state_dict({name: state[name] for name in wanted}, assign=True)
    needs_grad = state_from_family({name: p.requires_grad for name, p in stock.named_parameters()}, model_config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(needs_grad[name])
    return model.train(stock.training)


def _from_pretrained(model_class: Any, source: str, with_missing: bool = False) -> Any:
    try:
        model, info = model_class.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{source}: its weights cannot be read ({str(error).splitlines()[0]}); copy the model again."
        ) from None
    missing = sorted(info["missing_keys"])
    broken = [name for name in missing if not name.startswith("pooler.")] + sorted(map(str, info["mismatched_keys"]))
    if broken:
        raise InputError(
            f"{source}: {len(broken)} tensors of its config.json are missing from its weights or have another shape, "
            f"{broken[0]} first; the weights and config.json do not belong together."
        )
    return (model, missing) if with_missing else model


def check_weights(model: SparseCSEModel, source: str) -> None:
    """Raise `InputError` for weights, or a configuration, of which no finite vector can come."""
    eps = model.config.layer_norm_eps
    if not isinstance(eps, (int, float)) or not 0 <= eps < math.inf:
        raise InputError(f"{source}: layer_norm_eps in its config.json is {eps!r}, but must be a number from 0 up.")
    for name, parameter in model.named_parameters():
        values = parameter.detach().float().cpu().numpy()
        # A sum costs one pass on one thread, and is finite where all are, but for overflow.
        with np.errstate(all="ignore"):
            suspect = not math.isfinite(values.sum())
        if suspect and (broken := int((~np.isfinite(values)).sum())):
            raise InputError(
                f"{source}: {name} has {broken} values of {values.size} that are not finite; copy the model "
                "again, or take a checkpoint from before its training diverged."
            )


def _resolve_settings(
    source: str,
    found: FolderSettings,
    limit: int,
    pooling: str | None,
    normalize: bool | None,
    max_length: int | None,
    prompt: str | None,
) -> EncoderSettings:
    mode = pooling_mode(pooling) if pooling else found.pooling
    if mode is None:
        raise InputError(
            f"{source} does not say how its token vectors are pooled (no modules.json); give `pooling`, one of "
            f"{', '.join(POOLING_MODES)} (supervised SimCSE: pooler; unsupervised SimCSE, BGE: cls; E5, GTE: mean)."
        )
    prompts, default = dict(found.prompts), found.default_prompt
    if prompt is not None:
        name = next((name for name, text in prompts.items() if text == prompt), "default")
        prompts, default = ({**prompts, name: prompt}, name) if prompt else (prompts, None)
    length = max_length or found.max_length or limit
    if not 2 < length <= limit:
        raise InputError(f"`max_length` {length} is outside 3 to {limit}, the positions that {source} has.")
    return EncoderSettings(
        pooling=mode,
        normalize=bool(found.normalize) if normalize is None else normalize,
        max_length=length,
        prompts=prompts,
        default_prompt=default,
    )


def unused_prompts(source: str | Path) -> tuple[str, ...]:
    """Names of the prompts in a model's files where they name none as the default: `load_encoder` then puts none.

    A model that cannot be read has none here: loading it says what is wrong.
    """
    try:
        source = named_source(source)
        found = read_settings(lambda name: find_file(source, name), source)
    except (InputError, OSError):
        return ()
    return () if found.default_prompt else tuple(found.prompts)


def load_encoder(
    source: str | Path,
    *,
    pooling: str | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    prompt: str | None = None,
) -> Encoder:
    """Load an encoder in float32, in evaluation mode.

    Args:
        source: a transformers or sentence-transformers folder, a folder that sparsecse wrote, a hub id, or
            "demo", the demo extra's all-MiniLM-L6-v2.
        pooling: a key of `POOLING_MODES`; needed where the model's own files do not name one, and never guessed.
        normalize: whether vectors get unit length; by default what the folder says, else no.
        max_length: tokens kept of a sentence; by default what the folder says, else all the positions it has.
        prompt: text put before every sentence, "" for none; by default the folder's own default prompt.

    Raises:
        InputError: no such model, an unsupported family, unreadable or incomplete weights or such that are not finite,
            or no known pooling.
    """
    source = named_source(source)
    if Path(source).exists() and not Path(source).is_dir():
        raise InputError(f"{source} is a file; give the folder that holds config.json and the weights.")
    model = _load_model(source)
    check_weights(model, source)
    found = read_settings(lambda name: find_file(source, name), source)
    limit = model.config.max_position_embeddings - model.config.position_offset
    settings = _resolve_settings(source, found, limit, pooling, normalize, max_length, prompt)
    if settings.pooling == "pooler":
        if found.pooler is not None:
            model.config.has_pooler = True
            model.pooler = Pooler(model.config)
            model.pooler.dense.load_state_dict(found.pooler)
        if model.pooler is None:
            raise InputError(
                f"{source} has no pooler weights (pooler.dense.*), so `pooling` pooler cannot be used; a raw SimCSE "
                f"training checkpoint keeps them as mlp.dense and must be converted first."
            )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{source}: its tokenizer cannot be loaded ({str(error).splitlines()[0]}); "
            f"copy tokenizer.json and tokenizer_config.json beside the weights."
        ) from None
    return Encoder(model, tokenizer, settings, source).eval()


def is_stock(config: SparseCSEConfig) -> bool:
    """Whether all layers are alike and the attention complete, so that the original family's own class can hold it."""
    sizes = set(config.layer_sizes())
    heads = {heads for heads, _ in sizes}
    # RoBERTa's own class counts positions from pad_token_id + 1, so a padding token that has moved cannot be told it.
    positions = config.position_offset in (0, config.pad_token_id + 1)
    return len(sizes) == 1 and heads == {config.hidden_size // config.attention_head_size} and positions


def to_stock(model: SparseCSEModel, config: Any = None) -> Any:
    """The model as its original family's own; needs `is_stock`.

    config: the family's configuration, where there is one that it came from.
    """
    if config is None:
        values = config_to_family(model.config)
        config = AutoConfig.for_model(values.pop("model_type"), **values)
    stock = AutoModel.from_config(config)
    if model.pooler is None and getattr(stock, "pooler", None) is not None:
        stock.pooler = None
    stock.load_state_dict(state_to_family(model.state_dict(), model.config), assign=True)
    return stock


def _int8_state(model: SparseCSEModel) -> dict[str, torch.Tensor]:
    """The state of an int8 file: each matrix as int8 rows with a float32 scale, the largest value of a row at 127."""
    matrices = {name for name, module in model.named_modules() if module in stored_as_int8(model)}
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        module, _, parameter = name.rpartition(".")
        if module in matrices and parameter == "weight":
            scale = tensor.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
            state[f"{module}.weight_scale"] = scale
            tensor = (tensor.float() / scale).round().to(torch.int8)
        state[name] = tensor.contiguous()
    return state


def save_encoder(encoder: Encoder, directory: Path, *, stock: bool = False, dtype: str = "float32") -> None:
    """Write an encoder into an empty folder: weights, configuration, tokenizer and sentence-transformers' files.

    Args:
        encoder: what to write.
        directory: an existing, empty folder; see `files.atomic_directory` for writing it whole or not at all.
        stock: write the original family's own checkpoint (needs `is_stock`) instead of a sparsecse one.
        dtype: a key of `DTYPES`: how the weights are stored. int8 needs our own model class, so it excludes `stock`.
    """
    model = to_stock(encoder.model) if stock else copy.deepcopy(encoder.model)
    # transformers wants the flag in the configuration for sentence-transformers to see every layer's states.
    model.config.output_hidden_states = encoder.settings.pooling == "first_last_avg"
    if dtype == "int8":
        model.config.weight_storage = "int8"
        model.save_pretrained(directory, state_dict=_int8_state(encoder.model))
    else:
        model.to(dtype=DTYPES[dtype]).save_pretrained(directory)  # type: ignore[call-arg]
    encoder.tokenizer.save_pretrained(directory)
    pooler = None if encoder.model.pooler is None else encoder.model.pooler.dense
    config = encoder.model.config
    write_settings(directory, encoder.settings, config.hidden_size, config.num_hidden_layers, pooler)
