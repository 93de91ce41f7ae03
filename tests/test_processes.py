"""One model in several processes and threads: forked, spawned, pickled, copied, shared."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from sparsecse import forking
from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.kernels import native, reference
from sparsecse.kernels.dispatch import native_extension
from sparsecse.runtime import Runtime, accelerate
from sparsecse.runtime.precision import available

pytestmark = pytest.mark.skipif(
    native_extension() is None or not hasattr(os, "fork"), reason="needs the extension and fork"
)
# Enough numbers that PyTorch shares them out among its threads.
LARGE = torch.ones(400, 400)
SECONDS = 30


def in_child(function: Callable[[], object]) -> object:
    """What a function returns in a forked process; a failure where it does not return."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=lambda: writer.send(function()))
    process.start()
    writer.close()
    try:
        assert reader.poll(SECONDS), "the child hangs"
        return reader.recv()
    finally:
        process.kill()
        process.join()


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)  # commands set it, and sentence-transformers obeys
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def start_team() -> None:
    """Have PyTorch compute with its two threads."""
    LARGE.mul(2)


@pytest.fixture
def runtime(bert: Encoder) -> Runtime:
    return Runtime(bert, "float32", threads=2)


def test_a_runtime_in_forked_processes(runtime: Runtime, sentences: list[str]) -> None:
    expected = runtime.encode(sentences)
    start_team()
    ids = runtime.encoder.tokenize(sentences)
    assert np.array_equal(in_child(lambda: runtime.encode(sentences, normalize_embeddings=True)), expected)
    assert np.array_equal(in_child(lambda: runtime.encode_ids(ids)), expected)
    assert len(in_child(lambda: runtime.hidden_states(ids))) == len(ids)  # type: ignore[arg-type]
    # A child of a child, which has computed before it forks; and a thread of a child.
    assert np.array_equal(
        in_child(lambda: (runtime.encode(sentences), in_child(lambda: runtime.encode(sentences)))[1]), expected
    )
    with_thread = in_child(lambda: ThreadPoolExecutor(1).submit(runtime.encode, sentences).result())
    assert np.array_equal(with_thread, expected)


def test_the_tokenizers_threads_are_not_waited_for(
    runtime: Runtime, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    expected = runtime.encode(sentences)
    assert np.array_equal(in_child(lambda: runtime.encode(sentences)), expected)
    assert in_child(lambda: runtime.encoder.tokenize(sentences)) == runtime.encoder.tokenize(sentences)
    in_thread = in_child(lambda: ThreadPoolExecutor(1).submit(runtime.encode, sentences).result())
    assert np.array_equal(in_thread, expected) and os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_a_bare_fork(runtime: Runtime, sentences: list[str]) -> None:
    expected = runtime.encode(sentences)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(runtime.encode(sentences), expected) else 1)
    deadline = time.monotonic() + SECONDS
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.002)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)


def test_pytorch_and_the_kernels_in_forked_processes(bert: Encoder, sentences: list[str]) -> None:
    expected = bert.encode(sentences * 40)
    start_team()
    assert torch.equal(torch.as_tensor(in_child(lambda: bert.encode(sentences * 40).numpy())), expected)
    x = torch.nn.functional.normalize(torch.randn(70, 16), dim=1)
    native.uniformity(x)
    assert in_child(lambda: float(native.uniformity(x))) == pytest.approx(float(reference.uniformity(x)), abs=1e-5)


@pytest.mark.parametrize("threads", [None, 2])
def test_an_accelerated_model_in_forked_processes(
    sentence_folder: Path, sentences: list[str], threads: int | None
) -> None:
    many = sentences * 40  # pooling must be large enough for PyTorch to share it out
    model = accelerate(SentenceTransformer(str(sentence_folder), device="cpu"), "float32", threads)
    expected = model.encode(many, batch_size=len(many))
    start_team()
    assert np.array_equal(in_child(lambda: model.encode(many, batch_size=len(many))), expected)
    assert torch.get_num_threads() == 2


def test_loading_leaves_no_team_behind(sentence_folder: Path) -> None:
    def load_and_fork() -> None:
        Runtime(sentence_folder, threads=2)
        accelerate(SentenceTransformer(str(sentence_folder), device="cpu"), threads=2)
        in_child(lambda: float(LARGE.mul(2).sum()))  # on a team that a fork has broken this hangs

    forking.apart(load_and_fork)


@pytest.mark.parametrize("precision", available())
def test_copies_of_a_runtime(bert: Encoder, sentences: list[str], precision: str) -> None:
    runtime = Runtime(bert, precision, threads=1)
    runtime.reason = "as measured there"
    for same in (copy.deepcopy(runtime), copy.copy(runtime), pickle.loads(pickle.dumps(runtime))):
        assert (same.precision, same.reason, same.threads) == (precision, "as measured there", 1)
        assert np.array_equal(same.encode(sentences), runtime.encode(sentences))


@pytest.mark.parametrize("loaded", [False, True])
def test_a_runtime_of_an_encoder_that_is_sent_elsewhere(
    bert: Encoder, sentence_folder: Path, sentences: list[str], loaded: bool
) -> None:
    runtime = Runtime(sentence_folder if loaded else bert, "float32", threads=1)
    expected = runtime.encode(sentences)
    # As torch.multiprocessing sends it: storages move to shared memory, and what they had is free for others.
    ForkingPickler.dumps(runtime.encoder)
    embeddings = runtime.encoder.model.embeddings.word_embeddings.weight
    taken = [torch.full(embeddings.shape, 7.0) for _ in range(100)]
    assert embeddings.is_shared() and len(taken) == 100
    assert np.array_equal(runtime.encode(sentences), expected)


def test_a_runtime_of_an_encoder_that_is_trained_on(bert: Encoder, sentences: list[str]) -> None:
    bert.settings = dataclasses.replace(bert.settings, pooling="pooler")
    runtime = Runtime(bert, "float32", threads=1)
    expected = runtime.encode(sentences)
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.zero_()
    assert np.array_equal(runtime.encode(sentences), expected)


def test_a_copy_where_the_precision_is_missing(bert: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    if "int8" not in available():
        pytest.skip("this processor does not compute int8")
    pickled = pickle.dumps(Runtime(bert, "int8"))
    monkeypatch.setenv("SPARSECSE_CPU", "portable")
    with pytest.raises(InputError, match="int8 is not computed natively by this processor"):
        pickle.loads(pickled)


@pytest.mark.slow
def test_spawned_processes(bert: Encoder, sentence_folder: Path, sentences: list[str]) -> None:
    runtime = Runtime(bert, "float32", threads=2)
    model = accelerate(SentenceTransformer(str(sentence_folder), device="cpu"), "float32", threads=2)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for function in (runtime.encode, model.encode):
            result = pool.submit(function, sentences).result(timeout=600)
            assert np.array_equal(result, function(sentences))


@pytest.mark.parametrize("kind", ["runtime", "accelerated", "encoder"])
def test_threads_that_share_a_model(kind: str, bert: Encoder, sentence_folder: Path, sentences: list[str]) -> None:
    model: Any = bert
    if kind == "runtime":
        model = Runtime(bert, "float32", threads=2)
    if kind == "accelerated":
        model = accelerate(SentenceTransformer(str(sentence_folder), device="cpu"), "float32", threads=2)
    by_hand = dict(zip(sentences, bert.encode(sentences).numpy(), strict=True))
    parts = [sentences[start:] * (start + 1) for start in range(3)]
    with ThreadPoolExecutor(len(parts)) as pool:
        found = list(pool.map(model.encode, parts))
    for part, vectors in zip(parts, found, strict=True):
        np.testing.assert_allclose(vectors, [by_hand[sentence] for sentence in part], atol=5e-6)
