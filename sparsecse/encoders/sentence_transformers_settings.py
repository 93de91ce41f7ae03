"""What the files of sentence-transformers say about a model, read strictly: a key that is not followed is refused.

sentence-transformers itself is not needed. Names and defaults are those with which its release 6 loads a folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch

from sparsecse.encoders.head import ACTIVATIONS, TANH, Dense
from sparsecse.encoders.model_files import Known, ModelFiles, inside, whole
from sparsecse.encoders.pooling import first_last_weights
from sparsecse.encoders.stored import module_tensors
from sparsecse.errors import InputError
from sparsecse.files import read_json

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
MODULES_FILE = "modules.json"
MODEL_FILE = "config_sentence_transformers.json"
# The first that holds anything is the Transformer module's file.
TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)

_LOADING: Sequence[Any] = ({}, {"trust_remote_code": True}, {"trust_remote_code": False}, {"add_pooling_layer": False})
_TRANSFORMER: Known = {
    "max_seq_length": whole(3, null=True),
    "do_lower_case": (True, False, None),
    "transformer_task": ("feature-extraction",),
    "modality_config": ({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},),
    "module_output_name": ("token_embeddings",),
    "processing_kwargs": ({}, None),
    "unpad_inputs": None,
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
    "tokenizer_name_or_path": (None,),
    **dict.fromkeys(
        ("model_args", "tokenizer_args", "config_args", "model_kwargs", "processor_kwargs", "config_kwargs"), _LOADING
    ),
}
# In the order in which sentence-transformers joins the vectors of several.
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLING: Known = {
    "embedding_dimension": None,
    "word_embedding_dimension": None,
    "pooling_mode": None,
    "include_prompt": (True,),
    **dict.fromkeys(POOLING_FLAGS),
}
_INPUT_AND_OUTPUT: Known = {
    "module_input_name": ("sentence_embedding",),
    "module_output_name": (None, "sentence_embedding"),
}
_DENSE: Known = {
    "in_features": whole(1),
    "out_features": whole(1),
    "bias": (True, False),
    "activation_function": tuple(ACTIVATIONS),
    "use_residual": (False,),
    **_INPUT_AND_OUTPUT,
}
_LAYERS: Known = {
    "embedding_dimension": None,
    "word_embedding_dimension": None,
    "num_hidden_layers": None,
    "layer_start": (1,),
}
_MODEL: Known = {
    "model_type": ("SentenceTransformer",),
    "truncate_dim": whole(1, null=True),
    "similarity_fn_name": (None, *SIMILARITIES),
}


@dataclass(frozen=True)
class Module:
    """One line of modules.json: what kind of module, and the folder inside the model that holds it."""

    kind: str
    folder: str

    def file(self, name: str) -> str:
        return inside(self.folder, name)


@dataclass(frozen=True)
class FolderSettings:
    """What a model's own files say; None where they say nothing.

    lower_case: texts are lower-cased before the tokenizer sees them, whatever it does itself.
    pooler: a `Dense` module alone after cls pooling that is what BERT's pooler is (tanh, bias, equal width); it takes
        the place of the checkpoint's.
    head: any other `Dense` modules, in their order.
    averaged_layers: layers that the first-last average was written for.
    truncate_dim: values that are kept of a sentence vector.
    """

    pooling: str | None = None
    normalize: bool | None = None
    max_length: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str = "cosine"
    pooler: Dense | None = None
    head: tuple[Dense, ...] = ()
    averaged_layers: int | None = None
    truncate_dim: int | None = None


def read_modules(files: ModelFiles) -> tuple[Module, ...]:
    """The lines of modules.json in their order; none where the model has no such file.

    Raises:
        InputError: a module of somebody else's code, or a path that leaves the model.
    """
    path = files.find(MODULES_FILE)
    if path is None:
        return ()
    entries = read_json(path)
    if not isinstance(entries, list) or not entries or not all(map(_is_module, entries)):
        raise InputError(f"{path} is no list of modules with type and path; restore it.")
    read = [(entry["type"], entry["path"], entry.get("kwargs")) for entry in entries]
    modules = []
    for kind, folder, arguments in read:
        if not kind.startswith("sentence_transformers."):
            raise InputError(
                f"{path} names the module {kind}, which is code of the model's own; sparsecse runs the modules of "
                f"sentence-transformers only."
            )
        if _leaves(files.source, folder):
            raise InputError(
                f"{path} gives the path {folder!r}, which leaves the model; a path inside it belongs there."
            )
        if arguments:
            raise InputError(f"{path} gives {kind} the kwargs {arguments}, which sparsecse does not support.")
        place = PurePosixPath(folder).as_posix()
        modules.append(Module(kind.rpartition(".")[2], "" if place == "." else place))
    if modules[0].kind != "Transformer":
        raise InputError(
            f"{path} begins with {modules[0].kind}; sparsecse supports models that begin with Transformer."
        )
    return tuple(modules)


def _is_module(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("type", "path"))


def _leaves(source: str, folder: str) -> bool:
    """Whether the path of a module leads out of the model, by its name or by a link."""
    path = PureWindowsPath(folder)
    if path.anchor or ".." in path.parts or "\0" in folder:
        return True
    return Path(source).is_dir() and not (Path(source) / folder).resolve().is_relative_to(Path(source).resolve())


def read_prompts(files: ModelFiles) -> tuple[dict[str, str], str | None]:
    """The prompts that are not empty, by name, and the name of the one put before every sentence, or None.

    There are none where there is no modules.json: sentence-transformers then reads no file of its own.

    Raises:
        InputError: a prompt that is no text, or a default that is none of them.
    """
    content = (files.json(MODEL_FILE) if files.find(MODULES_FILE) else None) or {}
    prompts = content.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(text is None or isinstance(text, str) for text in prompts.values()):
        raise InputError(f"{files.source}/{MODEL_FILE}: prompts is no object of texts; restore it.")
    default = content.get("default_prompt_name")
    # sentence-transformers has these two, empty, in every model.
    if default is not None and default not in [*prompts, "query", "document"]:
        raise InputError(
            f"{files.source}/{MODEL_FILE}: default_prompt_name is {default!r}, which is none of its prompts "
            f"({', '.join(prompts) or 'there are none'}); name one of them there."
        )
    kept = {name: text for name, text in prompts.items() if text}
    return kept, default if default in kept else None


def read_truncate_dim(files: ModelFiles) -> int | None:
    """How many values are kept of the sentence vectors of a model that has modules; None for all.

    Raises:
        InputError: something else than a whole number above 0.
    """
    return _about(files).get("truncate_dim")


def _about(files: ModelFiles) -> dict[str, Any]:
    """What `MODEL_FILE` holds, its values checked."""
    about = files.json(MODEL_FILE) or {}
    files.check(MODEL_FILE, {key: value for key, value in about.items() if key in _MODEL}, _MODEL)
    return about


def read_settings(files: ModelFiles, modules: Sequence[Module], config: Mapping[str, Any]) -> FolderSettings:
    """Read pooling, normalisation, length limit, lower-casing, prompts and similarity from a model's files.

    Args:
        files: the model.
        modules: from `read_modules`.
        config: the transformers configuration of the model.

    Raises:
        InputError: the files ask for something that sparsecse does not do.
    """
    if not modules:
        return FolderSettings()
    prompts, default = read_prompts(files)
    about = _about(files)
    normalize = modules[-1].kind == "Normalize"
    if normalize:
        name = modules[-1].file("config.json")
        files.check(name, files.json(name) or {}, _INPUT_AND_OUTPUT)
    max_length, lower_case = _transformer(files, modules[0])
    return FolderSettings(
        **_pooling(files, modules[: len(modules) - normalize], config),
        normalize=normalize,
        max_length=max_length,
        lower_case=lower_case,
        prompts=prompts,
        default_prompt=default,
        similarity=about.get("similarity_fn_name") or "cosine",
        truncate_dim=about.get("truncate_dim"),
    )


def _transformer(files: ModelFiles, module: Module) -> tuple[int | None, bool]:
    """max_seq_length, and whether texts are lower-cased."""
    for name in map(module.file, TRANSFORMER_FILES):
        if content := files.json(name):
            files.check(name, content, _TRANSFORMER)
            return content.get("max_seq_length"), bool(content.get("do_lower_case"))
    return None, False


def _pooling(files: ModelFiles, modules: Sequence[Module], config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `FolderSettings` that say what becomes of token vectors, but for the normalisation at the end."""
    rest = list(modules[1:])
    average = rest.pop(0) if rest and rest[0].kind == "WeightedLayerPooling" else None
    if not rest or rest[0].kind != "Pooling" or any(module.kind != "Dense" for module in rest[1:]):
        kinds = " + ".join(module.kind for module in modules)
        raise InputError(
            f"{files.source}: {MODULES_FILE} names {kinds}, which sparsecse does not support; it takes "
            f"Transformer, WeightedLayerPooling or not, Pooling, Dense as often as need be, and Normalize at the end."
        )
    mode = _token_pooling(files, rest[0])
    head = tuple(_dense(files, module) for module in rest[1:])
    if average is not None:
        if mode != "mean":
            raise InputError(
                f"{files.source}: {MODULES_FILE} names WeightedLayerPooling before {mode} pooling; sparsecse supports "
                f"it before mean pooling only."
            )
        return {"pooling": "first_last_avg", "averaged_layers": _averaged_layers(files, average, config), "head": head}
    if mode == "cls" and len(head) == 1 and _is_pooler(head[0]):
        return {"pooling": "pooler", "pooler": head[0]}
    return {"pooling": mode, "head": head}


def _is_pooler(dense: Dense) -> bool:
    linear = dense.linear
    square = linear.in_features == linear.out_features
    return square and linear.bias is not None and dense.activation_name == TANH


def _config(files: ModelFiles, module: Module, known: Known) -> tuple[str, dict[str, Any]]:
    """The name and the content of a module's config.json, which must be there and hold nothing that is not followed."""
    name = module.file("config.json")
    content = files.json(name)
    if content is None:
        raise InputError(f"{files.source}: {name} is missing; restore it or copy the whole model again.")
    files.check(name, content, known)
    return name, content


def _token_pooling(files: ModelFiles, module: Module) -> str:
    """One of the modes of `POOLING_FLAGS`; several are refused."""
    name, content = _config(files, module, _POOLING)
    asked = content.get("pooling_mode", [mode for flag, mode in POOLING_FLAGS.items() if content.get(flag)] or "mean")
    modes = [asked] if isinstance(asked, str) else asked
    known = list(POOLING_FLAGS.values())
    if not isinstance(modes, list) or not all(mode in known for mode in modes):
        raise InputError(f"{files.source}/{name}: pooling_mode is {asked!r}; it must be one of {', '.join(known)}.")
    if len(modes) != 1:
        raise InputError(
            f"{files.source}/{name} pools with {' + '.join(modes) or 'nothing'}; sparsecse supports one mode at a time."
        )
    return modes[0]


def _dense(files: ModelFiles, module: Module) -> Dense:
    name, content = _config(files, module, _DENSE)
    sizes = {key: content.get(key) for key in ("out_features", "in_features")}
    files.check(name, sizes, _DENSE)
    shape = tuple(sizes.values())
    wanted = {"linear.weight": shape, **({"linear.bias": shape[:1]} if content.get("bias", True) else {})}
    state = module_tensors(files, module.folder)
    if {key: tuple(tensor.shape) for key, tensor in state.items()} != wanted:
        raise InputError(
            f"{files.source}: the weights in {module.folder} are not those of its config.json; copy the model again."
        )
    values = {key: tensor.float() for key, tensor in state.items()}
    if not all(bool(tensor.isfinite().all()) for tensor in values.values()):
        raise InputError(
            f"{files.source}: the weights in {module.folder} have values that are not finite; copy the model again."
        )
    activation = content.get("activation_function", TANH)
    return Dense(values["linear.weight"], values.get("linear.bias"), activation)


def _averaged_layers(files: ModelFiles, module: Module, config: Mapping[str, Any]) -> int:
    """The number of layers whose first and last are averaged."""
    name = module.file("config.json")
    files.check(name, {"layer_start": 4, **(files.json(name) or {})}, _LAYERS)
    if not config.get("output_hidden_states"):
        raise InputError(
            f"{files.source}: {MODULES_FILE} names WeightedLayerPooling, which sentence-transformers passes over, as "
            f"output_hidden_states is not true in config.json; set it there, or remove the module."
        )
    weights = module_tensors(files, module.folder).get("layer_weights", torch.empty(0))
    if len(weights) == 0 or not torch.equal(weights.float() / weights.sum(), first_last_weights(len(weights))):
        raise InputError(
            f"{files.source}: the layer_weights in {module.folder} are not the average of the first and the last "
            f"layer, the only one that sparsecse supports."
        )
    return len(weights)
