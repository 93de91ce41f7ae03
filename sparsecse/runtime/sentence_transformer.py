"""`accelerate`: a loaded `SentenceTransformer` computes its token vectors with the native encoder."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparsecse.encoders import Encoder, EncoderSettings, SparseCSEConfig, SparseCSEModel
from sparsecse.encoders.checkpoints import check_weights, from_stock, to_stock
from sparsecse.errors import InputError
from sparsecse.forking import apart
from sparsecse.kernels import dispatch
from sparsecse.processors import check_threads, default_threads
from sparsecse.runtime import native
from sparsecse.runtime.native_forward import NativeForward
from sparsecse.runtime.precision import choose

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class _StockModel(SparseCSEModel):
    """A stock model that computes as ours, and is saved as the stock model that it was."""

    stock_config: Any

    def save_pretrained(self, save_directory: Any, **options: Any) -> Any:  # type: ignore[override]
        options.pop("state_dict", None)
        return to_stock(self, self.stock_config).save_pretrained(save_directory, **options)


def accelerate(model: SentenceTransformer, precision: str = "auto", threads: int | None = None) -> SentenceTransformer:
    """Let a `SentenceTransformer` on the CPU compute with the native encoder; returns the same object, changed.

    Its Transformer module gets another `auto_model` with the same weights. Everything around it stays: tokenising,
    prompts, pooling, normalisation, and training, which goes through PyTorch as before. Changed weights are seen. Where
    the native encoder does not apply (see docs/use/runtime.md) PyTorch computes.

    Args:
        model: of a supported family, or a packed folder.
        precision, threads: as for `Runtime`. `model[0].auto_model.native_forward` says which was taken and why.

    Raises:
        InputError: a model of another kind, on another device, with hooks, or with weights that are not finite; or a
            precision that this machine does not have.
    """
    threads = check_threads(threads)
    module, name = _transformer(model)
    found = getattr(module, name)
    ours = _convert(found)
    obstacle = native.obstacle(ours)
    if obstacle is not None:
        if precision not in ("auto", "float32"):
            raise InputError(f"`precision` {precision} needs the native encoder, but {obstacle}; use float32.")
        if dispatch.native_extension() is not None:  # else it has been said
            native.warn_once(obstacle)
        return model
    check_weights(ours, "The model")
    limit = ours.config.max_position_embeddings - ours.config.position_offset
    length = min(model.max_seq_length or limit, limit)
    prompts = {name: prompt or "" for name, prompt in model.prompts.items()}
    settings = EncoderSettings("mean", False, length, prompts, model.default_prompt_name)
    was_training = ours.training
    # A shallow copy, since an Encoder turns its model's native pass off.
    encoder = Encoder(copy.copy(ours), module.tokenizer, settings, "the model").eval()
    try:
        count = threads or default_threads(torch.get_num_threads())
        choice = apart(choose, encoder, precision, count)
    finally:
        ours.train(was_training)
    forward = NativeForward(choice.precision, choice.reason, threads, choice.scales)
    ours.native_forward = forward  # type: ignore[assignment]
    setattr(module, name, ours)
    return model


def _transformer(model: SentenceTransformer) -> tuple[Any, str]:
    """The module that computes token vectors, and the name under which it holds its transformers model."""
    module: Any = next(iter(model.children()), None)
    found = getattr(module, "auto_model", None)
    names = [name for name, child in module.named_children() if child is found] if isinstance(found, nn.Module) else []
    if not names:
        raise InputError(
            f"accelerate takes a SentenceTransformer that begins with a Transformer module on PyTorch, not a "
            f"{type(model).__name__} that begins with {type(module).__name__}."
        )
    return module, names[0]


def _convert(found: Any) -> SparseCSEModel:
    """The model as ours, with the same tensors."""
    name, config = type(found).__name__, found.config
    if found.device.type != "cpu":
        raise InputError(f"accelerate is for the CPU, but the model is on {found.device}; call model.to('cpu') first.")
    if config.output_hidden_states:
        raise InputError(
            f"The {name} hands on the states of all layers (output_hidden_states), which the native encoder keeps to "
            f"itself; use sparsecse.runtime.Runtime, which pools them."
        )
    watched = [
        path
        for path, module in found.named_modules()
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    ]
    if watched:
        raise InputError(
            f"The {name} has forward hooks ({watched[0] or 'on itself'}), which would be lost; remove them."
        )
    if isinstance(found, SparseCSEModel):
        return found
    if config.model_type == SparseCSEConfig.model_type:  # by the modelling file of its folder
        ours = SparseCSEModel(SparseCSEConfig.from_dict(config.to_dict()))
        ours.load_state_dict(found.state_dict(), assign=True)
        return ours.train(found.training)
    has_pooler = any(key.startswith("pooler.") for key in found.state_dict())
    ours = from_stock(found, has_pooler, f"The {name}", _StockModel)
    ours.stock_config = config
    ours.config.name_or_path = config.name_or_path
    return ours
