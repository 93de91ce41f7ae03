"""A command in odd surroundings: output that nobody reads or takes, a full disk, data and losses without meaning."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import forked

from sparsecse.cli import main
from sparsecse.encoders import Encoder
from sparsecse.encoders.dropout import with_dropout
from sparsecse.errors import InputError
from sparsecse.files import file_hash, write_text
from sparsecse.training import TrainingSettings, train
from sparsecse.training.losses import BatchLoss

FULL = "Error: Standard output cannot be written (No space left on device); send it elsewhere.\n"
NOT_HERE = 77
needs_mounts = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("mount") is None, reason="mounts file systems of its own"
)
SETTINGS = TrainingSettings(objective={"unsup": 1.0}, batch_size=4, max_steps=6, eval_every=1, patience=0)


@contextlib.contextmanager
def files_of(most: int):
    """No file grows above that many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def output(kind: str):
    """A file descriptor whose reader is gone, or of a full device."""
    if kind == "full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, descriptor = os.pipe()
        os.close(reader)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize(
    ("kind", "code", "said"), [("closed", 0, ""), ("gone", 0, ""), ("full", 2, "Error: Standard output")]
)
def test_output_that_nobody_takes(kind, code, said):
    command = [sys.executable, "-m", "sparsecse", "--version"]
    with output(kind) as stdout:
        closing = {"preexec_fn": lambda: os.close(1)} if kind == "closed" else {"stdout": stdout}
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **closing)
    assert done.returncode == code and done.stderr.count("\n") == bool(code) and done.stderr.startswith(said)


@pytest.mark.parametrize(("kind", "code", "said"), [("gone", 0, ""), ("full", 2, FULL)])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_tables_and_json_that_nobody_takes(run, monkeypatch, capfd, kind, code, said, form):
    with output(kind) as descriptor:
        monkeypatch.setattr(sys, "stdout", os.fdopen(os.dup(descriptor), "w"))
        assert main(["inspect", str(run.path), *form]) == code
    assert capfd.readouterr().err == said


def test_a_full_disk(run, bert, sentences, tmp_path, capsys):
    before = set(run.path.rglob("*"))
    with files_of(20_000):
        assert main(["prune", "--sparsity", "0.25", "--workdir", str(run.path)]) == 2
        with pytest.raises(OSError, match="File too large") as text:
            write_text(tmp_path / "text", "x" * 30_000)
        with pytest.raises(OSError, match="File too large") as checkpoint:
            train(bert, [(sentence,) for sentence in sentences], SETTINGS, checkpoint=tmp_path / "checkpoint.pt")
    assert capsys.readouterr().err == (
        f"Error: {run.folder('prune').resolve()} cannot be read or written (File too large); see to it and run "
        f"the command again.\n"
    )
    assert set(run.path.rglob("*")) == before
    assert [text.value.filename, checkpoint.value.filename] == [
        str(tmp_path / name) for name in ("text", "checkpoint.pt")
    ]
    assert not {"text", "checkpoint.pt"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder in which not even root can write")
def test_a_run_directory_that_cannot_be_written(sentence_folder, capsys):
    assert main(["score", str(sentence_folder), "--data", "demo", "--workdir", "/proc/run"]) == 2
    assert capsys.readouterr().err.startswith("Error: --workdir /proc/run cannot be written (")


def test_sentences_that_are_all_the_same(sentence_folder, tmp_path, capsys):
    (tmp_path / "pairs.tsv").write_text("sentence1\tsentence2\tscore\n" + "the cat\tthe cat\t5\n" * 8)
    arguments = ["--data", str(tmp_path / "pairs.tsv"), "--workdir", str(tmp_path / "run")]
    assert main(["score", str(sentence_folder), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"Error: {tmp_path / 'pairs.tsv'}") and "has one sentence alone" in said


class Breaking:
    """Lets the loss of one step, counted from 1, be no number."""

    def __init__(self, step: int, monkeypatch: pytest.MonkeyPatch):
        self.calls = 0
        forward = BatchLoss.forward

        def broken(loss, *arguments):
            self.calls += 1
            return forward(loss, *arguments) * (torch.nan if self.calls == step else 1.0)

        monkeypatch.setattr(BatchLoss, "forward", broken)


def test_a_loss_that_is_no_number_ends_the_run_with_the_best_weights(bert, sentences, monkeypatch):
    examples, twin, notes = [(sentence,) for sentence in sentences], bert.copy(), []
    Breaking(4, monkeypatch)
    result = train(bert, examples, SETTINGS, note=notes.append)
    assert (result.steps, result.planned, result.best_step) == (3, 6, 3)
    assert notes == [
        "Warning: The training loss became nan at step 4; training ends there, with the weights of step 3."
    ]
    assert all(parameter.isfinite().all() for parameter in bert.parameters()) and not bert.training
    started = twin.copy()
    Breaking(1, monkeypatch)
    with pytest.raises(InputError, match=r"loss became nan at step 1; lower `learning_rate`"):
        train(twin, examples, SETTINGS)
    assert all(map(torch.equal, twin.parameters(), started.parameters()))


@pytest.mark.parametrize("objective", ["unsup", "moco"])
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: 12"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_that_runs_out_in_training(bert, sentences, monkeypatch, error, objective):
    examples, twin, notes, forward = [(sentence,) for sentence in sentences], bert.copy(), [], Encoder.forward_packed
    settings = replace(
        SETTINGS, objective={objective: 1.0}, dropout=0.0, batch_size=4, max_steps=3, queue_size=6, precision="float32"
    )
    expected = train(twin, examples, settings)
    most = 2

    def limited(encoder, batch):
        if len(batch) > most:
            raise error
        return forward(encoder, batch)

    monkeypatch.setattr(Encoder, "forward_packed", limited)
    result = train(bert, examples, settings, note=notes.append)
    assert notes[-1].startswith("Warning: Memory ran out at step 1; the 4 examples of a batch now go through the model")
    assert [f"in {parts} parts" in said for said, parts in zip(notes, (2, 4), strict=False)] == [True] * len(notes)
    losses = ([entry["loss"] for entry in one.history[1:]] for one in (result, expected))
    assert next(losses) == pytest.approx(next(losses), rel=1e-5)
    monkeypatch.undo()
    torch.testing.assert_close(bert.encode(sentences), twin.encode(sentences), atol=1e-5, rtol=0)


def test_no_memory_for_one_example(bert, sentences, monkeypatch):
    def none(encoder, batch):
        raise MemoryError

    monkeypatch.setattr(Encoder, "forward_packed", none)
    with pytest.raises(InputError, match="at step 1 with one example at a time; lower `max_length`"):
        train(bert, [(sentence,) for sentence in sentences], SETTINGS, note=lambda said: None)


def test_parts_of_a_batch_have_the_gradient_of_the_whole_under_dropout_too(bert, sentences):
    loss = BatchLoss(bert, replace(SETTINGS, precision="float32"))
    batch, found = [(sentence,) for sentence in sentences], []
    for parts, dropout in ((1, 0.0), (3, 0.0), (3, 0.1)):
        loss.parts = parts
        with with_dropout(bert, dropout):
            loss.train()
            torch.manual_seed(0)
            value = loss(batch)
            loss.zero_grad()
            value.backward()
        weight = bert.model.encoder.layer[0].output.dense.weight
        found.append((value.item(), weight.grad.clone()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-6, rtol=1e-4)
    # The directional derivative, with the same masks: those of the second pass are those of the first.
    step = 1e-3 * found[2][1] / found[2][1].norm()
    values = []
    with with_dropout(bert, 0.1), torch.no_grad():
        loss.train()
        for sign in (1, -1):
            weight.add_(sign * step)
            torch.manual_seed(0)
            values.append(loss(batch).item())
            weight.sub_(sign * step)
    assert (values[0] - values[1]) / 2e-3 == pytest.approx(found[2][1].norm().item(), rel=0.05)


def beside(work: Callable[[Callable[[str], None]], None]) -> None:
    """Do some work in a forked process that mounts what only it sees: `mount(arguments)` is the command's."""
    libc = ctypes.CDLL(None, use_errno=True)
    unshare = 0x10000000 | 0x00020000  # CLONE_NEWUSER | CLONE_NEWNS

    def mount(arguments: str) -> None:
        if subprocess.run(["mount", *arguments.split()]).returncode:
            os._exit(NOT_HERE)

    def alone() -> None:
        user, group = os.getuid(), os.getgid()
        if libc.unshare(unshare) != 0:
            os._exit(NOT_HERE)
        try:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        except OSError:
            os._exit(NOT_HERE)
        mount("--make-rprivate /")
        work(mount)

    code = forked(alone)
    if code == NOT_HERE:
        pytest.skip("this system lets a user mount nothing")
    assert code == 0


@needs_mounts
def test_a_file_system_that_fills_up(sentence_folder, pairs_file, tmp_path):
    """Whatever room there is, a run ends with one sentence and goes on in more, to the same files."""
    arguments = ["run", str(sentence_folder), "--data", str(pairs_file), "--method", "magnitude", "--sparsity", "0.25"]
    arguments += ["--tasks", str(pairs_file), "--no-bench", "--workdir"]
    (tmp_path / "small").mkdir()

    def work(mount: Callable[[str], None]) -> None:
        assert main([*arguments, str(tmp_path / "run")]) == 0
        mount(f"-t tmpfs -o size=4k tmpfs {tmp_path}/small")
        codes = []
        for size in (16, 48, 96, 128, 160, 192, 256, 320, 4000):
            mount(f"-o remount,size={size}k {tmp_path}/small")
            with contextlib.redirect_stderr(io.StringIO()) as errors:
                codes.append(main([*arguments, str(tmp_path / "small/run")]))
            said = errors.getvalue().splitlines()[-1]
            assert codes[-1] == 0 or ("No space left on device" in said and said.startswith("Error: ")), said
            assert not [path for path in (tmp_path / "small").rglob("*.tmp*") if path.is_dir()], size
        assert codes[0] == codes[1] == 2 and codes[-1] == 0 and set(codes) == {0, 2}
        found, expected = (
            {
                path.relative_to(top): file_hash(path)
                for path in top.rglob("*")
                if path.suffix in (".safetensors", ".txt")
            }
            for top in (tmp_path / "small/run", tmp_path / "run")
        )
        assert found == expected and len(found) > 3

    beside(work)


@needs_mounts
def test_a_run_directory_that_became_read_only(run, sentence_folder, tmp_path):
    """What there is can be looked at; what would be written is refused by its own name, before any other work."""

    def work(mount: Callable[[str], None]) -> None:
        mount(f"--bind {run.path} {run.path}")
        mount(f"-o remount,bind,ro {run.path}")
        for words, target in (("prune --sparsity 0.25", "prune"), ("report", "report.html"), ("inspect", None)):
            command, *options = words.split()
            place = [str(run.path)] if command == "inspect" else [*options, "--workdir", str(run.path)]
            with contextlib.redirect_stderr(io.StringIO()) as errors:
                code = main([command, *place])
            if target is None:
                assert code == 0
            else:
                place = run.path.resolve() / target
                assert code == 2 and errors.getvalue().startswith(
                    f"Error: {place} cannot be read or written (Read-only"
                )

    beside(work)
