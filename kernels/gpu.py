"""The functions of `reference` as Triton kernels, for CUDA tensors. Imports Triton: import it only where needed."""

from sparsecse.kernels.triton_attention import attention_backward, attention_forward
from sparsecse.kernels.triton_row_logsumexp import row_logsumexp, row_logsumexp_grad
from sparsecse.kernels.triton_uniformity import uniformity, uniformity_value_and_grad

__all__ = [
    "attention_backward",
    "attention_forward",
    "row_logsumexp",
    "row_logsumexp_grad",
    "uniformity",
    "uniformity_value_and_grad",
]
