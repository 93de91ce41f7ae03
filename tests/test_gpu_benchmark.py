"""benchmarks/gpu.py without a GPU: what it says then, and that its contenders compute the same thing."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_is_needed() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    result = subprocess.run(
        [sys.executable, str(FOLDER / "gpu.py"), "--only", "encode", "--check"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr == "benchmarks/gpu.py needs a CUDA device, and PyTorch finds none here.\n"


@pytest.mark.parametrize("backward", [False, True])
def test_all_of_attention_compute_the_same(monkeypatch: pytest.MonkeyPatch, backward: bool) -> None:
    module = import_module("gpu_attention")
    monkeypatch.setattr(module, "SORTED_BATCH", 3)
    packed = module.Packed.random([3, 20, 1, 7, 64, 5, 12], 2, 16, torch.float32, "cpu")
    calls = module.contenders(packed, backward, compiled=False)
    expected = calls["sparsecse"]()
    assert list(calls) == ["sparsecse", "SDPA padded", "SDPA padded, sorted"]
    assert len(expected) == (4 if backward else 1)
    for name, batches in module.padded_batches(packed).items():
        results = calls[name]()
        outs, grads = results[: len(batches)], results[len(batches) :]
        for position, wanted in enumerate(expected):
            got = torch.full_like(wanted, torch.nan)
            for index, batch in enumerate(batches):
                batch.unpad(outs[index] if position == 0 else grads[3 * index + position - 1], got)
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sentences", [1, 7])
def test_all_of_encode_compute_the_same(monkeypatch: pytest.MonkeyPatch, sentences: int) -> None:
    module = import_module("gpu_encode")
    monkeypatch.setattr(module, "PADDED_BATCH", 3)
    encoder = tiny(module)
    token_ids = module.random_ids(encoder, [9, 30, 5, 64, 12, 33, 7][:sentences])
    calls = module.contenders(encoder, token_ids, "float32", "cpu", compiled=False)
    assert ("sparsecse, no graph" in calls) == (sentences == 1)
    expected = encoder.encode_ids(token_ids).numpy()
    for call in calls.values():
        np.testing.assert_allclose(call(), expected, atol=1e-5)


def tiny(module: ModuleType):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "attention_head_size": 16}
    return module.random_encoder(**sizes, intermediate_size=40, vocab_size=1100, initializer_range=0.2)


@pytest.mark.nightly  # every shape, on a CPU
def test_results_are_checked() -> None:
    attention, encode = import_module("gpu_attention"), import_module("gpu_encode")
    assert attention.wrong_attention("cpu") == [] and encode.wrong_vectors("cpu") == []


def test_every_contender_gets_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    timing, attention, encode = import_module("gpu_timing"), import_module("gpu_attention"), import_module("gpu_encode")

    def seconds(calls, repeats):
        for call in calls.values():
            call()
        return {name: 0.5 * (1 + position) for position, name in enumerate(calls)}

    monkeypatch.setattr(timing, "seconds", seconds)
    monkeypatch.setattr(timing, "peak_bytes", lambda call: 800)
    for module in (attention, encode):
        monkeypatch.setattr(module, "DEVICE", "cpu")
        monkeypatch.setattr(module, "contenders", partial(module.contenders, compiled=False))
    monkeypatch.setattr(attention, "SHAPES", [(2, 8)])
    monkeypatch.setattr(encode, "encoders", lambda: iter([("tiny", tiny(encode))]))
    options = timing.Options([], [], 6, 1)
    rows = list(attention.attention_rows(options))
    assert len(rows) == 3 * 2 * 3
    tokens, squares = (sum(n**power for n in attention.random_lengths(6)) for power in (1, 2))
    first, second = rows[:2]
    assert (first.contender, first.product, first.ratio) == ("sparsecse", "bf16", 1.0) and second.ratio == 2.0
    assert first.tflops == pytest.approx(4 * squares * 16 / 0.5 / 1e12)
    assert first.gigabytes_per_second == pytest.approx(4 * tokens * 16 * 2 / 0.5 / 1e9)
    assert first.extra == pytest.approx(800 / (4 * tokens * 16))
    rows = list(encode.encode_rows(options))
    assert [row.shape for row in rows] == ["tiny, 6 sentences"] * 4 + ["tiny, 1 sentence"] * 6


def test_targets() -> None:
    module = import_module("gpu")

    def row(section: str, contender: str, ratio: float, product: str = "bf16", extra: float = 0.0, shape: str = ""):
        return module.Row(section, shape, contender, product, 1.0, ratio, 400.0, 1.0, extra)

    rows = [
        row("attention", "sparsecse", 1.0),
        row("attention", "SDPA padded", 4.0),
        row("attention", "SDPA padded, sorted", 2.5),
        row("attention", "SDPA padded", 0.1, "tf32"),
        row("encode", "padded sorted", 1.0),
        row("encode", "padded sorted, compiled", 2.5),
        row("uniformity", "sparsecse", 1.0, extra=4.5, shape="N=65536 d=768"),
    ]
    assert module.checks(rows, {"bf16": 600.0}) == {
        "attention: 3.0 times as fast as SDPA padded, is 2.50": False,
        "encode: 2.0 times as fast as padded sorted, compiled, is 2.50": True,
        "uniformity: 50% of the bf16 peak, is 67%": True,
        "uniformity bf16: 4.0 times N d 4 bytes of memory, is 4.5": False,
    }
