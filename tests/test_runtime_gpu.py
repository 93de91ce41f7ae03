"""The GPU's side of `Runtime`, on the CPU: buckets and batches give the plain pass's vectors; and what is refused."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from test_runtime import distance, make_encoder, padded, random_ids

from sparsecse.encoders import Encoder, load_encoder
from sparsecse.errors import InputError
from sparsecse.runtime import Runtime, gpu
from sparsecse.runtime.buckets import SENTENCES, TOKENS, bucket_size
from sparsecse.runtime.gpu import GpuEncoder, choose_device, choose_precision

CPU = torch.device("cpu")


class Recorder:
    """In a CUDA graph's place: calls again, into the same tensor, and counts."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, call: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        self.recorded += 1
        out = call().clone()

        def replay() -> torch.Tensor:
            self.replayed += 1
            return out.copy_(call())

        return replay


def on_the_cpu(encoder: Encoder, record: Recorder | None = None, precision: str = "float32") -> GpuEncoder:
    return GpuEncoder(encoder, precision, CPU, record)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "cls", "first_last_avg"])
def test_buckets_give_the_vectors_of_the_padded_pass(checkpoints, family: str, pooling: str) -> None:
    encoder = load_encoder(checkpoints[family], pooling=pooling, normalize=True)
    recorder = Recorder()
    small, eager = on_the_cpu(encoder, recorder), on_the_cpu(encoder)
    for lengths in ([3], [15], [4, 9, 1], [16], [31], [2] * 7):
        token_ids = random_ids(encoder, lengths, seed=len(lengths))
        expected = padded(encoder, token_ids)
        for vectors in (small.encode_ids(token_ids), eager.encode_ids(token_ids)):
            assert vectors.dtype == np.float32 and vectors.shape == expected.shape
            assert distance(vectors, expected) < 5e-6
    # Of 16 and 32 tokens with one sentence, and of 16 with eight.
    assert recorder.recorded == 3 and recorder.replayed == 6


def test_what_a_call_leaves_in_its_bucket_is_gone() -> None:
    encoder = make_encoder(pooling="pooler", has_pooler=True)
    gpu_encoder = on_the_cpu(encoder, Recorder())
    for lengths in ([60, 3], [5, 5, 50, 1], [64]):
        token_ids = random_ids(encoder, lengths)
        expected = padded(encoder, token_ids)
        assert distance(gpu_encoder.encode_ids(token_ids), expected) < 1e-5
    broken = make_encoder()
    with torch.no_grad():
        broken.model.embeddings.word_embeddings.weight[7] = math.nan
    small = on_the_cpu(broken, Recorder())
    assert np.isnan(small.encode_ids([[5, 7, 6]])).all()
    assert np.isfinite(small.encode_ids([[5, 6]])).all()


def test_sizes_of_buckets() -> None:
    assert bucket_size(1, 1, 512) == (16, 1)
    assert bucket_size(15, 2, 512) == (16, 8) and bucket_size(16, 8, 512) == (32, 8)
    assert bucket_size(TOKENS[-1] - 1, SENTENCES[-1], 512) == (TOKENS[-1], SENTENCES[-1])
    assert bucket_size(TOKENS[-1], 1, 512) is None and bucket_size(100, SENTENCES[-1] + 1, 512) is None
    # The sentence of zeros has positions and relative biases too.
    assert bucket_size(100, 1, 127) is None and bucket_size(100, 1, 128) == (128, 1)


def test_more_tokens_than_a_batch_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make_encoder()
    token_ids = random_ids(encoder, [30, 80, 1, 79, 2, 2, 2, 40])
    expected = padded(encoder, token_ids)
    for budget in (1, 50, 82, 10**6):
        monkeypatch.setattr(gpu, "TOKEN_BUDGET", budget)
        assert distance(on_the_cpu(encoder).encode_ids(token_ids), expected) < 5e-6
    lengths = np.array([30, 80, 1, 79, 2])
    monkeypatch.setattr(gpu, "TOKEN_BUDGET", 82)
    assert [sentences for sentences, _ in gpu.token_batches(lengths)] == [slice(0, 1), slice(1, 3), slice(3, 5)]
    assert [tokens for _, tokens in gpu.token_batches(lengths)] == [slice(0, 30), slice(30, 111), slice(111, 192)]


def test_the_padding_token_inside_a_sentence() -> None:
    encoder = make_encoder(position_offset=2, type_vocab_size=0)
    token_ids = [[5, 1, 6, 7], [1, 1], [8]]
    with torch.inference_mode():
        expected = encoder.forward_packed(encoder.pack(token_ids)).numpy()
    np.testing.assert_allclose(on_the_cpu(encoder, Recorder()).encode_ids(token_ids), expected, atol=2e-6)


def test_half_precision_and_later_changes() -> None:
    encoder = make_encoder()
    token_ids = random_ids(encoder, [30, 8, 2])
    expected = padded(encoder, token_ids)
    small = on_the_cpu(encoder, Recorder(), "bfloat16")
    with torch.no_grad():
        encoder.model.embeddings.word_embeddings.weight.zero_()
    vectors = small.encode_ids(token_ids)
    assert vectors.dtype == np.float32 and distance(vectors, expected) < 3e-2


def test_without_graphs_where_none_can_be_recorded() -> None:
    def fail(_: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    encoder = make_encoder()
    token_ids = random_ids(encoder, [5])
    gpu_encoder = GpuEncoder(encoder, "float32", CPU, fail)
    with pytest.warns(
        RuntimeWarning, match=r"without CUDA graphs \(operation not permitted when stream is capturing\)"
    ):
        assert distance(gpu_encoder.encode_ids(token_ids), padded(encoder, token_ids)) < 5e-6
    assert distance(gpu_encoder.encode_ids(token_ids), padded(encoder, token_ids)) < 5e-6


def test_threads_take_turns() -> None:
    encoder = make_encoder()
    small = on_the_cpu(encoder, Recorder())
    batches = [random_ids(encoder, [3, 9] * size, seed=size) for size in (1, 2, 3, 4)]
    expected = [padded(encoder, batch) for batch in batches]
    largest = [0.0] * len(batches)

    def work(index: int) -> None:
        for _ in range(5):
            largest[index] = max(largest[index], distance(small.encode_ids(batches[index]), expected[index]))

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(batches))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert 0.0 < max(largest) < 5e-6


@pytest.mark.parametrize(
    "token_ids,message",
    [
        ([[5, 6], []], "Sentence 1 has no token ids"),
        ([[5] * 81], "random: a sentence has more tokens than there are positions"),
        ([[5, 10_000]], "random: an id is outside the vocabulary"),
        ([[5, -1]], "random: an id is outside the vocabulary"),
    ],
)
def test_ids_that_the_model_does_not_have(token_ids: list[list[int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        on_the_cpu(make_encoder(), Recorder()).encode_ids(token_ids)


def test_precisions_of_a_gpu() -> None:
    assert choose_precision("auto", (9, 0))[0] == "bfloat16" and choose_precision("auto", (7, 5))[0] == "float32"
    assert choose_precision("float16", (7, 5)) == ("float16", "float16, as asked for")
    for precision, message in (
        ("int8", "on the CPU alone"),
        ("bfloat16", "has 7.5; use float16 or float32"),
        ("float8", "'float8' is not one of auto, float32, bfloat16, float16"),
    ):
        with pytest.raises(InputError, match=message):
            choose_precision(precision, (7, 5))


def test_devices() -> None:
    assert choose_device(None, torch.device("cuda", 3)) == torch.device("cuda", 3)
    assert choose_device("cpu", torch.device("cuda", 3)) == CPU
    for wrong in ("tpu", "mps", "cuda:x", ""):
        with pytest.raises(InputError, match="is not one of cpu, cuda, cuda:0"):
            choose_device(wrong, CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_no_gpu_is_said_in_a_sentence(device: str) -> None:
    with pytest.raises(InputError, match=f"`device` {device}: PyTorch finds no CUDA device here"):
        Runtime(make_encoder(), device=device)


def test_a_runtime_uses_its_gpu(monkeypatch: pytest.MonkeyPatch, sentences: list[str]) -> None:
    monkeypatch.setattr(gpu, "choose_device", lambda device, own: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(gpu, "GpuEncoder", lambda encoder, precision, device: on_the_cpu(encoder, Recorder()))
    encoder = make_encoder()
    runtime = Runtime(encoder, device="cuda")
    assert runtime.precision == "bfloat16" and "9.0" in runtime.reason and runtime.device == torch.device("cuda", 0)
    expected = Runtime(encoder, "float32", device="cpu").encode(sentences)
    np.testing.assert_allclose(runtime.encode(sentences), expected, atol=5e-6)
    assert runtime.encode("the cat").shape == (48,) and runtime.encode_ids([]).shape == (0, 48)
    with pytest.raises(InputError, match="this Runtime is on cuda:0"):
        runtime.hidden_states([[5]])
