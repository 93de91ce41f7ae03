"""Fused kernels, each a differentiable PyTorch operator with a native CPU version and a reference in plain PyTorch."""

from sparsecse.kernels.attention import attention
from sparsecse.kernels.row_logsumexp import row_logsumexp
from sparsecse.kernels.token_maps import shared_token_maps
from sparsecse.kernels.uniformity import uniformity, uniformity_value_and_grad

__all__ = ["attention", "row_logsumexp", "shared_token_maps", "uniformity", "uniformity_value_and_grad"]
