"""Several processes: the scores and losses of one, whatever their number; one that is killed ends the work."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import WORDS

from sparsecse import distributed
from sparsecse.cli import main
from sparsecse.datasets import PairSet
from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.evaluation.dev import Dev, DevSet
from sparsecse.scoring import Scores, ScoringSettings, scoring_method
from sparsecse.training import StepReport, TrainingResult, TrainingSettings, train

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which starts in no time")

SETTINGS = TrainingSettings(
    batch_size=7, max_steps=4, eval_every=2, learning_rate=1e-3, warmup_ratio=0.0, precision="float32", dropout=0.0
)


class Forked:
    """A process that follows, without the seconds that imports take; as `subprocess.Popen`."""

    def __init__(self, port: int, number: int, processes: int):
        self._process = multiprocessing.get_context("fork").Process(target=self._run, args=(port, number, processes))
        self._process.start()

    @staticmethod
    def _run(port: int, number: int, processes: int) -> None:
        place = {"RANK": number, "WORLD_SIZE": processes, "LOCAL_RANK": number, "MASTER_PORT": port}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}}
        os.close(1)
        os.open(os.devnull, os.O_WRONLY)
        signal.signal = lambda *_: None  # type: ignore[assignment]  # which a thread may not call
        code: list[int] = [1]
        # A team of threads of its own: the parent's did not come along.
        thread = threading.Thread(target=lambda: code.__setitem__(0, distributed.follow()))
        thread.start()
        thread.join()
        os._exit(code[0])

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> int:
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], contextlib.AbstractContextManager[None]]:
    monkeypatch.setattr(distributed, "_start", Forked)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    return distributed.workers


@pytest.fixture(scope="module")
def triplets() -> list[tuple[str, ...]]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(len(WORDS), (3 + i % 5,), generator=generator).tolist() for i in range(30)]
    texts = [" ".join(WORDS[i] for i in row) for row in rows]
    return [(text, f"{text} and then", " ".join(reversed(text.split()))) for text in texts]


def close(left: Scores, right: Scores) -> None:
    for a, b in zip(left.heads + left.neurons, right.heads + right.neurons, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * float(b.abs().max()))
    assert left.values == pytest.approx(right.values, rel=1e-5)


@pytest.mark.parametrize("processes", [2, 3])
def test_scores_are_those_of_one_process(workers, bert: Encoder, pairs: PairSet, processes: int) -> None:
    methods = ("taylor", "taylor-batch", "taylor-mixed", "fisher-block", "activation")
    settings = ScoringSettings(batch_size=2, precision="float32")  # eight sentences in five batches or so
    expected = [scoring_method(method).score(bert, pairs, settings) for method in methods]
    seen: list[tuple[int, int]] = []
    with workers(processes):
        found = [
            scoring_method(method).score(bert, pairs, settings, lambda *now: seen.append(now)) for method in methods
        ]
        few = scoring_method("taylor").score(bert, pairs, replace(settings, batch_size=100))  # one batch for all
    for one, want in zip(found, expected, strict=True):
        close(one, want)
    close(few, expected[0])
    assert seen[-1][0] == seen[-1][1] and (16, 16) in seen
