"""Makes transformers know packed models and our attention as soon as both packages are imported, in either order.

`import sparsecse` must stay cheap, so transformers is not imported for this: where it is loaded already the classes
are registered at once, else when the module that defines `AutoModel` has been executed. `sparsecse.runtime` is imported
when a model first needs it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_AUTO_MODULE = "transformers.models.auto.modeling_auto"


def register() -> None:
    """Register our model with AutoConfig and AutoModel, its native forward pass, and `attn_implementation`."""
    from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModel

    from sparsecse.encoders.modeling_sparsecse import SparseCSEConfig, SparseCSEModel

    AutoConfig.register(SparseCSEConfig.model_type, SparseCSEConfig, exist_ok=True)
    AutoModel.register(SparseCSEConfig, SparseCSEModel, exist_ok=True)
    SparseCSEModel.native_forward = staticmethod(_native_forward)  # type: ignore[assignment]
    AttentionInterface.register("sparsecse", _attend)
    AttentionMaskInterface.register("sparsecse", _mask)


def _native_forward(*args: Any) -> Any:
    from sparsecse.runtime.native_forward import IN_OWN_PRECISION

    return IN_OWN_PRECISION(*args)


def _attend(*args: Any, **kwargs: Any) -> Any:
    from sparsecse.runtime.attention_interface import attend

    return attend(*args, **kwargs)


def _mask(*args: Any, **kwargs: Any) -> Any:
    from sparsecse.runtime.attention_interface import mask

    return mask(*args, **kwargs)


class _RegisterAfterExecution(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader):
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        register()


class _AutoModuleFinder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _AUTO_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisterAfterExecution(spec.loader)
        return spec


def register_when_loaded() -> None:
    """Register now if transformers' Auto classes are loaded, else right after they are."""
    if _AUTO_MODULE in sys.modules:
        register()
    elif not any(isinstance(finder, _AutoModuleFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AutoModuleFinder())
