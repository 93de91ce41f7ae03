"""The checks of the Triton kernels on a CUDA device, at shapes that the interpreter is too slow for."""

from __future__ import annotations

import math

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)
pytest.importorskip("triton")

from test_kernels import exact_uniformity, relative_error
from test_triton import DTYPES, TOLERANCE, Correctness

from sparsecse.kernels import row_logsumexp, uniformity, uniformity_value_and_grad
from sparsecse.kernels.dispatch import implementation

pytestmark = pytest.mark.gpu


class TestOnTheDevice(Correctness):
    device = "cuda"
    # Matrix units cut off what does not fit into a sum, where other hardware rounds.
    value_tolerance = 2e-5

    @pytest.mark.parametrize("n,d", [(4095, 384), (4097, 768), (9000, 100), (5000, 1024)])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_many_vectors(self, n: int, d: int, dtype: torch.dtype) -> None:
        x = self.vectors(n, d, dtype=dtype)
        value, grad = uniformity_value_and_grad(x)
        expected, expected_grad = exact_uniformity(x)
        assert float(value) == pytest.approx(float(expected), abs=self.value_tolerance)
        assert relative_error(grad, expected_grad) < TOLERANCE[dtype]

    def test_offsets_beyond_32_bits(self) -> None:
        rows = 2**31 // 1024 + 300
        b = torch.zeros(rows, 1024, dtype=torch.bfloat16, device=self.device)
        b[-1] = 1.0
        a = torch.full((3, 1024), 2.0**-6, dtype=torch.bfloat16, device=self.device)
        expected = torch.tensor([rows - 1 + math.exp(16.0)]).log().item()
        assert float(row_logsumexp(a, b)[2]) == pytest.approx(expected, abs=1e-5)

    def test_memory_beside_the_input(self) -> None:
        x = self.vectors(20000, 768, dtype=torch.bfloat16)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        uniformity_value_and_grad(x)
        assert torch.cuda.max_memory_allocated() - before <= 4 * 4 * x.numel()

    def test_it_can_be_compiled_and_captured(self) -> None:
        x = self.vectors(1500, 384, dtype=torch.bfloat16)
        expected = uniformity(x)
        assert torch.equal(torch.compile(uniformity, fullgraph=True)(x), expected)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = uniformity(x)
        graph.replay()
        assert torch.equal(captured, expected)


def test_what_the_dispatch_picks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARSECSE_KERNELS", raising=False)
    half = torch.zeros(2, 2, dtype=torch.bfloat16, device="cuda")
    assert implementation(half, 10**8).__name__.endswith("gpu")
    assert implementation(half, 4).__name__.endswith("reference")
    assert implementation(half.double()).__name__.endswith("reference")
