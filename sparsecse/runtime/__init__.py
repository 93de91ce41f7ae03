"""The fastest way from sentences to vectors: no padding, fused kernels; bfloat16, and on CPUs int8."""

from sparsecse.runtime.precision import AUTO_COSINE, PRECISIONS
from sparsecse.runtime.runtime import Runtime
from sparsecse.runtime.sentence_transformer import accelerate

__all__ = ["AUTO_COSINE", "PRECISIONS", "Runtime", "accelerate"]
