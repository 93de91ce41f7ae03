"""Inference without padding on the CPU and the GPU, and how it plugs into transformers and sentence-transformers."""

from typing import TYPE_CHECKING

from sparsecse.lazy import lazy_names

if TYPE_CHECKING:
    from sparsecse.runtime.precision import AUTO_COSINE, PRECISIONS
    from sparsecse.runtime.runtime import Runtime
    from sparsecse.runtime.sentence_transformer import accelerate
else:
    __all__, __getattr__, __dir__ = lazy_names(__name__)
