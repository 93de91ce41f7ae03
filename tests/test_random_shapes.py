"""The compiled code against float64 at shapes that nobody chose; `make asan` runs all of them with sanitizers."""

from __future__ import annotations

import random

import pytest
import torch
from test_attention import packed, plain_attention, random_bias, random_gate, with_gradients
from test_kernels import exact_uniformity, gradient_tolerance, relative_error, vectors
from test_runtime import TOLERANCE, distance, make_encoder, padded, random_ids

from sparsecse.kernels import attention, row_logsumexp, uniformity_value_and_grad
from sparsecse.runtime import Runtime, native

SEEDS = [0, 1, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(2, 40))]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("seed", SEEDS)
def test_pairs_of_vectors(backend, seed):
    draw = random.Random(seed)
    n, m, d, dtype = draw.randint(2, 300), draw.randint(1, 200), draw.randint(1, 900), draw.choice(DTYPES)
    x, rows = vectors(n, d, seed, dtype), vectors(m, d, seed + 1, dtype)
    value, gradient = uniformity_value_and_grad(x)
    expected, expected_gradient = exact_uniformity(x)
    assert float(value) == pytest.approx(float(expected), abs=2e-5)
    if n > 2:  # the gradient of two near vectors is a difference of near numbers
        assert relative_error(gradient, expected_gradient) < 2 * gradient_tolerance(dtype)
    found, exact = row_logsumexp(rows, x, 3.0), torch.logsumexp(3.0 * rows.double() @ x.double().T, dim=1)
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_attention(backend, seed):
    draw = random.Random(seed)
    lengths = [draw.randint(1, draw.choice((3, 17, 70))) for _ in range(draw.randint(1, 6))]
    heads, head_size, dtype = draw.randint(1, 5), draw.randint(1, 130), draw.choice(DTYPES)
    fused, cu_lengths = packed([*lengths, 2], heads, head_size, seed)
    inputs = [x.requires_grad_() for x in fused.to(dtype).unbind(1)]
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    options = {}
    if draw.random() < 0.5:
        options["bias"] = random_bias(heads, max(*lengths, 2) + draw.randint(0, 3)).float()
    if draw.random() < 0.5:
        options["gate"] = random_gate(len(lengths) + 1, heads).float()
    exact_options = {name: value.double() for name, value in options.items()}
    if draw.random() < 0.5:
        noise = {"dropout": 0.3, "seed": draw.randrange(-(2**62), 2**62)}
        options, exact_options = options | noise, exact_options | noise
    result = attention(*inputs, cu_lengths, **options)
    exact = plain_attention(*exact_inputs, cu_lengths, **exact_options)
    upstream = torch.randn(exact.shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    found = with_gradients(result, inputs, upstream)
    expected = with_gradients(exact, exact_inputs, upstream.double())
    for got, wanted in zip(found, expected, strict=True):
        assert relative_error(got, wanted) < (5e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("modern", [False, True])
def test_encoders(backend, seed, modern):
    if backend == "reference":
        pytest.skip("the runtime is compiled code")
    draw = random.Random(seed)
    heads, head_size = draw.randint(1, 4), draw.choice((4, 8, 12, 16, 20, 32))
    sizes = {"num_attention_heads": heads, "attention_head_size": head_size, "hidden_size": heads * head_size}
    sizes |= {"num_hidden_layers": 2, "intermediate_size": draw.randint(1, 90)}
    if modern:
        sizes |= {"norm_first": True, "gated": True, "rotary_bases": [10.0, 1e4]}
        sizes |= {"attention_windows": [None, draw.randint(0, draw.choice((4, 40)))]}
        sizes |= {name: draw.random() < 0.5 for name in ("norm_bias", "attention_bias", "feed_forward_bias")}
    encoder = make_encoder(seed=seed, **sizes)
    token_ids = random_ids(encoder, [draw.randint(1, draw.choice((4, 79))) for _ in range(draw.randint(1, 9))], seed)
    expected = padded(encoder, token_ids)
    for precision in ("float32", "bfloat16", "int8"):
        if native.computes_in(precision, encoder.model.config):
            vectors = Runtime(encoder, precision, threads=draw.randint(1, 3)).encode_ids(token_ids)
            assert distance(vectors, expected) < 2 * TOLERANCE[precision]
