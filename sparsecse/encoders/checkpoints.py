"""Load an encoder from a folder or a hub id, and write one that transformers and sentence-transformers load."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from huggingface_hub import constants
from transformers import AutoConfig, AutoModel, PretrainedConfig

from sparsecse.encoders.configuration import CONFIG_FILE, check_values, checked_config
from sparsecse.encoders.demo import named_source
from sparsecse.encoders.encoder import Encoder
from sparsecse.encoders.families import (
    FAMILIES,
    config_from_family,
    config_to_family,
    shared_evenly,
    state_from_family,
    state_to_family,
)
from sparsecse.encoders.head import TANH, Dense
from sparsecse.encoders.model_files import ModelFiles, inside
from sparsecse.encoders.modeling_sparsecse import Pooler, SparseCSEConfig, SparseCSEModel, stored_as_int8
from sparsecse.encoders.pooling import POOLING_MODES, pooling_mode
from sparsecse.encoders.sentence_transformers_files import write_settings
from sparsecse.encoders.sentence_transformers_settings import (
    MODEL_FILE,
    FolderSettings,
    Module,
    read_modules,
    read_prompts,
    read_settings,
)
from sparsecse.encoders.settings import EncoderSettings
from sparsecse.encoders.tokenizer import load_tokenizer, save_tokenizer
from sparsecse.errors import InputError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}


def _read_layout(files: ModelFiles) -> tuple[Module, ...]:
    """The modules of a model; none where it has no modules.json."""
    try:
        modules = read_modules(files)
        adapter = inside(modules[0].folder if modules else "", "adapter_config.json")
        content = files.json(adapter)
    except OSError:  # a hub id that is none: reading its configuration says so
        return ()
    if content is not None:
        raise InputError(
            f"{files.source}/{adapter} is an adapter of {content.get('base_model_name_or_path')}, not a whole model; "
            f"merge the two with PEFT (PeftModel.from_pretrained(base, adapter).merge_and_unload()), save the result "
            f"with its tokenizer, and give that folder."
        )
    return modules


def _read_config(files: ModelFiles, folder: str) -> dict[str, Any]:
    """The transformers configuration in a folder of a model; a family that is not supported is refused."""
    source, name = files.source, inside(folder, CONFIG_FILE)
    if Path(source).is_dir():
        found = files.json(name)
        if found is None:
            raise InputError(f"{source} has no {name}; give a folder written by transformers' save_pretrained.")
        settings = found
    else:
        try:
            settings, _ = PretrainedConfig.get_config_dict(source, subfolder=folder)
        except (OSError, ValueError) as error:
            reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else str(error).splitlines()[0]
            raise InputError(
                f"{source} is neither a folder on this machine nor a hub model that can be reached ({reason}); check "
                f"the path."
            ) from None
    if "model_type" not in settings:
        raise InputError(f"{source}: {name} has no model_type; give a folder that transformers wrote.")
    check_values(files, name, settings)
    if settings["model_type"] == SparseCSEConfig.model_type:
        return settings
    code = settings.get("auto_map") or {}
    if {"AutoConfig", "AutoModel"} & set(code):
        raise InputError(
            f"{source}/{name} asks for code of the model's own (auto_map: {code.get('AutoModel', code)}); sparsecse "
            f"computes the {settings['model_type']} of transformers, which is another model."
        )
    if settings.get("quantization_config"):
        raise InputError(
            f"{source}/{name} has a quantization_config; sparsecse reads weights in float32, float16 and bfloat16."
        )
    return settings


def _load_model(files: ModelFiles, folder: str, settings: Mapping[str, Any]) -> SparseCSEModel:
    source, config = files.source, checked_config(files, folder, settings)
    if isinstance(config, SparseCSEConfig):
        return _from_pretrained(SparseCSEModel, config, source, folder)[0]
    stock, missing = _from_pretrained(AutoModel, config, source, folder)
    has_pooler = any(name.startswith("pooler.") for name in stock.state_dict()) and not any(
        "pooler" in n for n in missing
    )
    return from_stock(stock, has_pooler, source)


def from_stock(
    stock: Any, has_pooler: bool, source: str, model_class: type[SparseCSEModel] = SparseCSEModel
) -> SparseCSEModel:
    """A family's own model, dense and in memory, as ours; the tensors are shared, but for parts of a fused matrix.

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


def _from_pretrained(model_class: Any, config: Any, source: str, folder: str) -> tuple[Any, list[str]]:
    """The model, and the names of the tensors that its weights lack: a pooler's at most."""
    try:
        model, info = model_class.from_pretrained(
            source, config=config, subfolder=folder, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # transformers raises errors of many classes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{source}: its weights cannot be read ({reason}); copy the model again.") from None
    missing = sorted(info["missing_keys"])
    broken = [name for name in missing if not name.startswith("pooler.")] + sorted(map(str, info["mismatched_keys"]))
    if broken:
        raise InputError(
            f"{source}: {len(broken)} tensors of its config.json are missing from its weights or have another shape, "
            f"{broken[0]} first; the weights and config.json do not belong together."
        )
    return model, missing


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
    tokenizer_limit: Any,
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
    return EncoderSettings(
        pooling=mode,
        normalize=bool(found.normalize) if normalize is None else normalize,
        max_length=_length(source, found.max_length, limit, tokenizer_limit, max_length),
        prompts=prompts,
        default_prompt=default,
        similarity=found.similarity,
        lower_case=found.lower_case,
    )


def _length(source: str, of_module: int | None, limit: int, of_tokenizer: Any, asked: int | None) -> int:
    """Tokens kept of a text: what is asked for, else the module file's, else the tokenizer's; at most `limit`."""
    if asked is not None:
        if not 2 < asked <= limit:
            raise InputError(f"`max_length` {asked} is outside 3 to {limit}, the positions that {source} has.")
        return asked
    if of_module is not None:
        if of_module > limit:
            warnings.warn(
                f"{source} names a max_seq_length of {of_module} and has {limit} positions; texts are cut to {limit} "
                f"tokens.",
                stacklevel=4,
            )
        return min(of_module, limit)
    if not isinstance(of_tokenizer, (int, float)) or of_tokenizer < 3:
        raise InputError(
            f"{source}: model_max_length is {of_tokenizer!r} in its tokenizer_config.json; write how many tokens of a "
            f"text are kept there, or give `max_length`."
        )
    return int(min(of_tokenizer, limit))


def unused_prompts(source: str | Path) -> tuple[str, ...]:
    """Names of the prompts in a model's files where they name none as the default: `load_encoder` then puts none.

    A model that cannot be read has none here: loading it says what is wrong.
    """
    try:
        prompts, default = read_prompts(ModelFiles(named_source(source)))
    except (InputError, OSError):
        return ()
    return () if default else tuple(prompts)


def load_encoder(
    source: str | Path,
    *,
    pooling: str | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    prompt: str | None = None,
    truncate_dim: int | None = None,
) -> Encoder:
    """Load an encoder in float32, in evaluation mode.

    Args:
        source: a transformers or sentence-transformers folder, a folder that sparsecse wrote, a hub id, or
            "demo", the demo extra's all-MiniLM-L6-v2.
        pooling: a key of `POOLING_MODES`; needed where the model's own files do not name one, and never guessed.
        normalize: whether vectors get unit length; by default what the folder says, else no.
        max_length: tokens kept of a sentence; by default sentence-transformers' max_seq_length, at most the positions
            that there are, else the tokenizer's model_max_length or the positions, whichever are fewer.
        prompt: text put before every sentence, "" for none; by default the folder's own default prompt.
        truncate_dim: values that `encode` keeps of each vector, from the first; by default the folder's own number,
            else all. The vector is normalised before it is cut, not after, as in sentence-transformers.

    Raises:
        InputError: no such model, an unsupported family, unreadable or incomplete weights or such that are not finite,
            no known pooling, or a `truncate_dim` above the vector's size.
    """
    source = named_source(source)
    if Path(source).exists() and not Path(source).is_dir():
        raise InputError(f"{source} is a file; give the folder that holds config.json and the weights.")
    files = ModelFiles(source)
    modules = _read_layout(files)
    folder = modules[0].folder if modules else ""
    config = _read_config(files, folder)
    found = read_settings(files, modules, config)
    model = _load_model(files, folder, config)
    check_weights(model, source)
    tokenizer = load_tokenizer(files, folder, model.config, found.lower_case)
    limit = model.config.max_position_embeddings - model.config.position_offset
    settings = _resolve_settings(
        source, found, limit, tokenizer.model_max_length, pooling, normalize, max_length, prompt
    )
    size = model.config.hidden_size
    if truncate_dim is None and found.truncate_dim is not None and found.truncate_dim > size:
        raise InputError(
            f"{source}/{MODEL_FILE}: truncate_dim is {found.truncate_dim}, and the model's vectors have {size} values; "
            f"correct it there, or give `truncate_dim`."
        )
    if found.averaged_layers not in (None, model.config.num_hidden_layers):
        raise InputError(
            f"{source} has {model.config.num_hidden_layers} layers, and its WeightedLayerPooling is of "
            f"{found.averaged_layers}; copy the whole model again."
        )
    if settings.pooling == "pooler":
        _set_pooler(model, found, source)
    _check_widths(source, model.config.hidden_size, found.head)
    encoder = Encoder(model, tokenizer, settings, source, found.head).eval()
    width = found.truncate_dim if truncate_dim is None else truncate_dim
    return encoder if width is None else encoder.truncated(width)


def _check_widths(source: str, width: int, head: Sequence[Dense]) -> None:
    """Raise `InputError` where a Dense module does not take what comes before it, first vectors [width]."""
    for dense in head:
        if dense.linear.in_features != width:
            raise InputError(
                f"{source}: a Dense module takes vectors of {dense.linear.in_features} numbers, and what comes before "
                f"it gives {width}; copy the whole model again."
            )
        width = dense.linear.out_features


def _set_pooler(model: SparseCSEModel, found: FolderSettings, source: str) -> None:
    """Let a Dense module of the folder take the place of the checkpoint's pooler; one of the two there must be."""
    if found.pooler is not None:
        _check_widths(source, model.config.hidden_size, [found.pooler])
        model.config.has_pooler = True
        model.pooler = Pooler(model.config)
        model.pooler.dense.load_state_dict(found.pooler.linear.state_dict())
    if model.pooler is None:
        raise InputError(
            f"{source} has no pooler weights (pooler.dense.*), so `pooling` pooler cannot be used; a raw SimCSE "
            f"training checkpoint keeps them as mlp.dense and must be converted first."
        )


def is_stock(config: SparseCSEConfig) -> bool:
    """Whether all layers are alike and the attention complete, so that the original family's own class can hold it."""
    family, sizes = FAMILIES[config.original_model_type], config.layer_sizes()
    heads, _ = sizes[0]
    if set(sizes) != {sizes[0]} or not heads or config.hidden_size % heads:
        return False
    # RoBERTa's own class counts positions from pad_token_id + 1, so a padding token that has moved cannot be told it.
    positions = config.position_offset in (0, config.pad_token_id + 1)
    # ModernBERT's has no LayerNorm before the first layer's attention, even where another layer comes first now.
    norms = config.first_attention_norm == family.fixed_settings.get("first_attention_norm", True)
    # A family whose configuration says how large heads are can have any number of them.
    complete = heads * config.attention_head_size == config.hidden_size or "attention_head_size" in family.config_names
    groups = config.key_value_heads or []
    even = all(own == groups[0] == shared_evenly(heads, own[-1] + 1) for own in groups)
    return complete and even and positions and norms


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
    save_tokenizer(encoder.tokenizer, directory, encoder.settings.max_length)
    config, head = encoder.model.config, cast(list[Dense], list(encoder.head))
    if encoder.settings.pooling == "pooler":
        pooler = encoder.model.pooler.dense
        head.insert(0, Dense(pooler.weight.detach(), pooler.bias.detach(), TANH))
    write_settings(directory, encoder.settings, config.hidden_size, config.num_hidden_layers, head)
