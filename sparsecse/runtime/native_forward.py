"""`SparseCSEModel.forward` by the native encoder: the same result for the same arguments, or a decline.

Packed folders that transformers and sentence-transformers have loaded come here. Whatever could make PyTorch compute
something else than the plain forward pass (gradients, dropout, hooks, replaced modules, tracing) is declined, and
PyTorch computes.

The encoder keeps a copy of the layers' weights, and makes it anew when a parameter has been replaced, has other memory,
or has been written to: PyTorch counts the writes of its operations, whether gradients are recorded or not. Fused
optimisers and those that write through `.data` are not counted; steps of optimisers are therefore watched. Writes of
other code through `.data`, NumPy or memory shared with a process leave no trace: the copy outlives
them until `torch.autograd.graph.increment_version(parameter)`, or a pass in training mode or with gradients recorded.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers.activations import ACT2FN

from sparsecse.encoders import SparseCSEModel, modeling_sparsecse
from sparsecse.forking import hold_torch, is_survivor, past_fork
from sparsecse.processors import default_threads
from sparsecse.runtime import native
from sparsecse.runtime.calibration import LayerScales

_PRECISION_OF_DTYPE = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True)
class NativeForward:
    """What `SparseCSEModel.native_forward` calls; it holds settings only, so that it can be copied and pickled.

    precision: one of `PRECISIONS`; None for that of the model's dtype.
    reason: in a few words, why that one.
    threads: None for `torch.get_num_threads()` at the time of each call, within what `processors.available` says.
    scales: of each layer, for int8.
    """

    precision: str | None = None
    reason: str = "the precision of the weights"
    threads: int | None = None
    scales: Sequence[LayerScales] | None = None

    def __call__(
        self,
        model: SparseCSEModel,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """The last hidden state [batch, length, hidden_size], zeros where there is padding; None where PyTorch must."""
        if model.training or (torch.is_grad_enabled() and any(x.requires_grad for x in model.parameters())):
            # What trains the weights may leave no trace in them: forget the copy.
            _packed.pop(model, None)
            return None
        # Before PyTorch can compute: what surrounds this pass runs on the same thread.
        torch_threads = hold_torch() if is_survivor() else torch.get_num_threads()
        if native.obstacle(model) or _is_watched():
            return None
        if token_type_ids is not None and model.embeddings.has_token_types and _is_nonzero(token_type_ids):
            return None
        real = _right_padded(input_ids, attention_mask)
        parameters = _plain_parameters(model)
        if real is None or parameters is None:
            return None
        precision = self.precision or _PRECISION_OF_DTYPE.get(parameters[0].dtype)
        if precision is None or not native.computes_in(precision, model.config):
            return None
        encoder = self._encoder(model, parameters, precision)
        hidden = np.zeros((*real.shape, model.config.hidden_size), np.float32)
        ids, lengths = input_ids.numpy()[real].astype(np.int32), real.sum(axis=1)
        is_padded = len(ids) < real.size
        tokens = np.empty((len(ids), hidden.shape[-1]), np.float32) if is_padded else hidden.reshape(len(ids), -1)
        try:
            threads = self.threads or default_threads(torch_threads)
            _encode(encoder, ids, lengths, "none", False, tokens, threads)
        except ValueError:  # an id or a position that the model does not have: PyTorch says so in its own words
            return None
        if is_padded:
            hidden[real] = tokens
        return torch.from_numpy(hidden).to(parameters[0].dtype)

    @past_fork
    def _encoder(self, model: SparseCSEModel, parameters: list[torch.Tensor], precision: str) -> Any:
        packed = _packed.get(model)
        if packed is None or not packed.is_of(parameters, self, precision):
            with _lock:
                packed = _packed.get(model)
                if packed is None or not packed.is_of(parameters, self, precision):
                    packed = _Packed(model, parameters, self, precision)
                    _packed[model] = packed
        return packed.encoder


@past_fork
def _encode(encoder: Any, *arguments: Any) -> None:
    encoder.encode(*arguments)


IN_OWN_PRECISION = NativeForward()


class _Packed:
    """Weights in the native encoder's layout, and what tells that the model's own are still the same."""

    def __init__(self, model: SparseCSEModel, parameters: list[torch.Tensor], settings: NativeForward, precision: str):
        self.settings, self.precision = settings, precision
        # The parameters and views of them: while these live, nothing else can have their identities and addresses.
        self.parameters = parameters
        self.views = [parameter.detach() for parameter in parameters]
        self.state = _state(parameters)
        self.encoder = native.build(model, precision, settings.scales)

    def is_of(self, parameters: list[torch.Tensor], settings: NativeForward, precision: str) -> bool:
        return (
            settings is self.settings
            and precision == self.precision
            and len(parameters) == len(self.parameters)
            and all(map(operator.is_, parameters, self.parameters))
            and _state(parameters) == self.state
        )


_packed: weakref.WeakKeyDictionary[SparseCSEModel, _Packed] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def _forget_stepped(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    if _packed:
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for model, packed in list(_packed.items()):
            if not stepped.isdisjoint(map(id, packed.parameters)):
                _packed.pop(model, None)


register_optimizer_step_post_hook(_forget_stepped)


def _state(parameters: list[torch.Tensor]) -> list[list[Any]]:
    """Where the parameters lie and how, and how often each was written to."""
    readers: list[Any] = [torch.Tensor.data_ptr, torch.Tensor.stride, operator.attrgetter("_version")]
    return [list(map(read, parameters)) for read in readers]


def _is_watched() -> bool:
    """Whether something follows or changes the single operations: autocast, tracing, a mode, hooks on all modules."""
    module = nn.modules.module
    return bool(
        torch.is_autocast_enabled("cpu")
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or module._global_forward_hooks
        or module._global_forward_pre_hooks
    )


def _is_nonzero(x: torch.Tensor) -> bool:
    return type(x) is not torch.Tensor or not x.is_cpu or bool(x.any())


def _right_padded(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> np.ndarray | None:
    """Which tokens are real, [batch, length]; None where these are not plain sentences with padding after them."""
    tensors = [input_ids] if attention_mask is None else [input_ids, attention_mask]
    if any(type(x) is not torch.Tensor or not x.is_cpu or x.shape != input_ids.shape for x in tensors):
        return None
    if input_ids.ndim != 2 or not input_ids.numel() or input_ids.is_floating_point():
        return None
    if attention_mask is None:
        return np.ones(input_ids.shape, bool)
    real = attention_mask.numpy() != 0
    lengths = real.sum(axis=1, keepdims=True)
    is_padded_right = lengths.all() and (real == (np.arange(real.shape[1]) < lengths)).all()
    return real if is_padded_right else None


@cache
def _module_types(hidden_act: str) -> frozenset[type]:
    ours = {x for x in vars(modeling_sparsecse).values() if isinstance(x, type) and issubclass(x, nn.Module)}
    return frozenset(
        {*ours, nn.Linear, nn.Embedding, nn.LayerNorm, nn.Dropout, nn.ModuleList, type(ACT2FN[hidden_act])}
    )


def _plain_parameters(model: SparseCSEModel) -> list[torch.Tensor] | None:
    """All parameters of a model whose modules are the original ones without hooks; None for any other."""
    types = _module_types(model.config.hidden_act)
    parameters: list[torch.Tensor] = []
    modules: list[Any] = [child for child in model._modules.values() if child is not None]
    while modules:
        module = modules.pop()
        if (
            type(module) not in types
            or module.training
            or module._forward_hooks
            or module._forward_pre_hooks
            or "forward" in module.__dict__
        ):
            return None
        parameters += [parameter for parameter in module._parameters.values() if parameter is not None]
        modules += [child for child in module._modules.values() if child is not None]
    dtype = parameters[0].dtype
    for parameter in parameters:
        if (
            type(parameter) not in (nn.Parameter, torch.Tensor)
            or parameter.dtype != dtype
            or not parameter.is_cpu
            or parameter.is_inference()
        ):
            return None
    return parameters
