"""The checks of the Triton kernels on a CUDA device, at shapes that the interpreter is too slow for."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)
pytest.importorskip("triton")

from test_attention import packed, random_bias, random_gate, with_gradients
from test_kernels import exact_uniformity, relative_error
from test_runtime import distance, make_encoder, padded, random_ids
from test_triton import DTYPES, TOLERANCE, Correctness

from sparsecse.encoders import load_encoder
from sparsecse.kernels import attention, row_logsumexp, shared_token_maps, uniformity, uniformity_value_and_grad
from sparsecse.kernels.dispatch import implementation
from sparsecse.runtime import Runtime
from sparsecse.scoring import contributions

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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads,head_size", [(12, 32), (3, 24), (1, 128)])
def test_attention_with_everything(dtype: torch.dtype, heads: int, head_size: int) -> None:
    lengths = [*range(5, 65), 0, 1, 300]
    fused, cu_lengths = packed(lengths, heads, head_size)
    extras = [random_bias(heads, 300).float(), random_gate(len(lengths), heads).float()]
    inputs = [x.cuda().requires_grad_() for x in (*fused.to(dtype).unbind(1), *extras)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    results = []
    for q, k, v, bias, gate in (inputs, exact):
        out = attention(q, k, v, cu_lengths.cuda(), bias=bias, gate=gate, dropout=0.1, seed=7)
        results.append(with_gradients(out, [q, k, v, bias, gate], torch.ones_like(out).cumsum(0) % 7))
    for got, wanted in zip(*results, strict=True):
        assert relative_error(got.cpu(), wanted.cpu()) < (1e-5 if dtype == torch.float32 else 1e-2)


def test_graphs_see_the_lengths_they_are_replayed_with() -> None:
    fused, _ = packed([40], 2, 32)
    q, k, v = (x.float().cuda() for x in fused.unbind(1))
    cu_lengths = torch.tensor([0, 10, 40], device="cuda")
    attention(q, k, v, cu_lengths)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), shared_token_maps(cu_lengths):
        outs = [attention(q, k, v, cu_lengths) for _ in range(2)]
    for begin in (25, 3):
        cu_lengths[1] = begin
        graph.replay()
        expected = attention(q, k, v, torch.tensor([0, begin, 40], device="cuda"))
        assert all(torch.equal(out, expected) for out in outs)


@pytest.mark.parametrize("precision,tolerance", [("float32", 1e-4), ("bfloat16", 0.1), ("float16", 0.02)])
def test_runtime_on_the_device(precision: str, tolerance: float) -> None:
    encoder = make_encoder()
    runtime = Runtime(encoder, precision, device="cuda")
    assert Runtime(copy.deepcopy(encoder).cuda()).device.type == "cuda"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one says that there are no graphs
        for lengths in ([5], [15], [16], [3, 40, 9], [5], [80] * 600):
            token_ids = random_ids(encoder, lengths, seed=len(lengths))
            assert distance(runtime.encode_ids(token_ids), padded(encoder, token_ids)) < tolerance


def test_scores_on_the_device(checkpoints, pairs) -> None:
    encoder = load_encoder(checkpoints["bert"], pooling="mean", normalize=True)
    expected = contributions(encoder, pairs, precision="float32")
    got = contributions(encoder.cuda(), pairs, precision="float32")
    for x, y in zip(got.heads + got.neurons, expected.heads + expected.neurons, strict=True):
        torch.testing.assert_close(x.cpu(), y, rtol=1e-3, atol=1e-5)
