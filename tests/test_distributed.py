"""Several processes: the scores and losses of one, whatever their number; one that is killed ends the work."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import WORDS

from sparsecse import distributed
from sparsecse.cli import main
from sparsecse.datasets import PairSet
from sparsecse.encoders import Encoder, PackedBatch
from sparsecse.errors import InputError
from sparsecse.evaluation.dev import Dev, DevSet
from sparsecse.scoring import Scores, ScoringSettings, contributions, scoring_method
from sparsecse.training import StepReport, TrainingSettings, train

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which starts in no time")

SETTINGS = TrainingSettings(
    batch_size=7, max_steps=4, eval_every=2, learning_rate=1e-3, warmup_ratio=0.0, precision="float32", dropout=0.0
)
METHODS = ("taylor", "taylor-batch", "taylor-mixed", "fisher-block", "activation")


class Forked:
    """A process that follows, without the seconds that imports take; as `subprocess.Popen`."""

    def __init__(self, port: int, number: int, processes: int, work: Callable[[], int] = distributed.follow):
        place = {"RANK": number, "WORLD_SIZE": processes, "LOCAL_RANK": number, "MASTER_PORT": port}
        place |= {"MASTER_ADDR": "127.0.0.1"}
        self._process = multiprocessing.get_context("fork").Process(target=self._run, args=(place, work))
        self._process.start()

    @staticmethod
    def _run(place: dict[str, object], work: Callable[[], int]) -> None:
        os.environ |= {name: str(value) for name, value in place.items()}
        signal.signal = lambda *_: None  # type: ignore[assignment,misc]  # which a thread may not call
        code = [1]
        # A thread begins a team of its own: that of the parent did not come along.
        thread = threading.Thread(target=lambda: code.append(work()))
        thread.start()
        thread.join()
        os._exit(code[-1])

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


@pytest.mark.parametrize("processes, methods", [(2, METHODS[:1]), (3, METHODS)])
def test_scores_are_those_of_one_process(workers, bert: Encoder, pairs: PairSet, processes: int, methods) -> None:
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


def trained(encoder: Encoder, data: list[tuple[str, ...]], settings: TrainingSettings, **more: Any) -> list[float]:
    """The losses of the steps, and then the vector of a sentence."""
    losses: list[float] = []
    train(encoder, data, settings, progress=lambda report: losses.append(report.loss), **more)
    return [*losses, *encoder.encode("the cat sat on the mat").tolist()]


@pytest.mark.parametrize("processes, count", [(2, 1), (3, 4)])
def test_losses_are_those_of_one_process(workers, bert: Encoder, pairs: PairSet, triplets, processes, count) -> None:
    teacher = bert.copy()
    dev = Dev([DevSet.of(pairs)], teacher)
    with torch.no_grad():
        bert.model.encoder.layer[0].intermediate.dense.weight.mul_(1.5)
    cases: list[tuple[int, dict[str, Any], dict[str, Any]]] = [
        (1, {"objective": {"distill": 1.0}, "gradient_accumulation": 2}, {"teacher": teacher, "dev": dev}),
        (3, {"objective": {"sup": 1.0}, "mlp_head": True, "mini_batch_size": 2}, {}),
        # None of the batch for the third process.
        (1, {"objective": {"distill": 1.0}, "batch_size": 2}, {"teacher": [teacher, bert.copy()]}),
        (1, {"objective": {"unsup": 1.0, "moco": 0.5}, "queue_size": 9, "weight_decay": 0.1}, {}),
    ]

    def all_cases() -> list[list[float]]:
        return [
            trained(
                bert.copy(),
                [triplet[:columns] for triplet in triplets],
                replace(SETTINGS, **changes),
                **more,
            )
            for columns, changes, more in cases[:count]
        ]

    expected = all_cases()
    with workers(processes):
        found = all_cases()
    for one, want in zip(found, expected, strict=True):
        assert one == pytest.approx(want, rel=1e-4, abs=1e-5)


def test_memory_that_runs_out_in_one_process(workers, bert: Encoder, triplets, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, twin, notes = replace(SETTINGS, objective={"sup": 1.0}, precision="auto"), bert.copy(), []
    forward, ours = Encoder.forward_packed, os.getpid()
    # Fast in bfloat16 is only the other one, and the first one decides.
    monkeypatch.setattr("sparsecse.training.precision.fast_bfloat16", lambda: os.getpid() != ours)
    expected = trained(twin, triplets, settings)

    def limited(encoder: Encoder, batch: PackedBatch) -> torch.Tensor:
        if os.getpid() != ours and len(batch) > 4:
            raise MemoryError
        return forward(encoder, batch)

    monkeypatch.setattr(Encoder, "forward_packed", limited)
    with workers(2):
        found = trained(bert, triplets, settings, note=notes.append)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert [f"in {parts} parts" in said for said, parts in zip(notes, (2, 4), strict=True)] == [True, True]


def test_a_process_that_is_killed_and_the_run_resumed(workers, bert: Encoder, triplets, tmp_path: Path) -> None:
    settings = replace(SETTINGS, objective={"unsup": 1.0}, dropout=0.1)
    undisturbed = bert.copy()
    with workers(2):
        expected = trained(undisturbed, triplets, settings)

    def kill(report: StepReport) -> None:
        if report.step == 3:
            multiprocessing.active_children()[0].kill()

    with pytest.raises(InputError, match=r"Process 1 of 2 was ended by signal 9; run the command again"), workers(2):
        train(bert.copy(), triplets, settings, checkpoint=tmp_path / "checkpoint.pt", progress=kill)
    with workers(2):
        found = trained(bert, triplets, settings, checkpoint=tmp_path / "checkpoint.pt")
    assert found == pytest.approx(expected[2:], rel=1e-6, abs=1e-6)  # from step 2 on
    assert train(bert, triplets, settings, checkpoint=tmp_path / "checkpoint.pt").steps == 4  # in one process too


def test_an_error_of_one_process_is_told(
    workers, bert: Encoder, pairs: PairSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, ours = Encoder.forward_packed, os.getpid()

    def broken(encoder: Encoder, batch: PackedBatch) -> torch.Tensor:
        if os.getpid() != ours:
            raise RuntimeError("no such operator")
        return forward(encoder, batch)

    monkeypatch.setattr(Encoder, "forward_packed", broken)
    with workers(2):
        with pytest.raises(InputError, match="One of 2 processes failed: no such operator"):
            contributions(bert, pairs, batch_size=2)
        with pytest.raises(InputError, match="start them again"):
            contributions(bert, pairs)


def scores_of(folder: Path) -> Scores:
    return Scores.load(folder / "score" / "scores.safetensors")


def test_processes_that_are_started(capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    with distributed.workers(2):
        assert distributed.together(distributed.collect, "share") == ["share", "share"]
        assert distributed.size() == 1 and torch.get_num_threads() == threads
    assert capfd.readouterr() == ("", "")
    with pytest.raises(InputError, match="`nproc` 0 is less than 1"), distributed.workers(0):
        pass
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(InputError, match="already one of several"), distributed.workers(2):
        pass


def test_a_command_that_starts_its_processes(
    workers, capfd, sentence_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    command = ["score", str(sentence_folder), "--data", str(pairs_file), "--precision", "float32", "--json"]
    assert main([*command, "--workdir", str(tmp_path / "one")]) == 0
    capfd.readouterr()
    assert main([*command, "--workdir", str(tmp_path / "two"), "--nproc", "2", "--batch-size", "2"]) == 0
    told = capfd.readouterr()
    # LanceDB, where a test before has imported it, warns of forks.
    warned = [line for line in told.err.splitlines() if line.startswith("Warning") and "lancedb" not in line]
    assert json.loads(told.out)["stage"] == "score" and not warned
    close(scores_of(tmp_path / "two"), scores_of(tmp_path / "one"))


def test_a_command_under_torchrun(
    workers, capfd, sentence_folder: Path, pairs_file: Path, triplets, tmp_path: Path
) -> None:
    """The environment and the processes as torchrun makes them."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{first}\n" for first, *_ in triplets))
    folders = [tmp_path / "one", tmp_path / "three"]
    score = ["score", str(sentence_folder), "--data", str(pairs_file)]
    tune = ["finetune", "--data", str(text), "--steps", "3", "--train-batch-size", "7", "--precision", "float32"]

    def all_in(folder: Path) -> int:
        own = ["--workdir", str(folder), "--quiet"]
        return main([*score, *own]) or main(["prune", "--sparsity", "0.3", *own]) or main([*tune, *own])

    def in_group(arguments: list[str]) -> list[int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started = [Forked(port, number, 3, lambda: main(arguments)) for number in range(3)]
        return [process.wait() for process in started]

    assert all_in(folders[0]) == 0
    shutil.copytree(folders[0], folders[1])
    shutil.rmtree(folders[1] / "finetune")
    own = ["--workdir", str(folders[1]), "--quiet"]
    capfd.readouterr()
    assert in_group([*tune, *own]) == [0, 0, 0]
    assert capfd.readouterr().out == f"{folders[1] / 'finetune'}\n"
    one, three = (json.loads((folder / "finetune" / "history.json").read_text()) for folder in folders)
    assert [entry["loss"] for entry in three[1:]] == pytest.approx([entry["loss"] for entry in one[1:]], rel=1e-4)
    assert in_group([*tune, *own, "--steps", "0", "--epochs", "-1"]) == [2, 0, 0]
    assert "Error: --epochs -1" in capfd.readouterr().err
