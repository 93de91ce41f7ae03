"""One model in several processes and threads: forked, spawned, pickled, copied, shared."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from sparsecse import forking
from sparsecse.encoders import Encoder
from sparsecse.kernels import native, reference
from sparsecse.kernels.dispatch import native_extension
from sparsecse.runtime import Runtime, accelerate

pytestmark = pytest.mark.skipif(
    native_extension() is None or not hasattr(os, "fork"), reason="needs the extension and fork"
)
# Enough numbers that PyTorch shares them out among its threads.
LARGE = torch.ones(400, 400)
SECONDS = 60


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


def start_team() -> None:
    """Have PyTorch compute with two threads on this one."""
    assert torch.get_num_threads() == 2
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
