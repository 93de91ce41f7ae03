"""A process that ends at any moment loses nothing: what it leaves is whole, and the next one ends with the same bytes.

Each case is a forked process, which dies at an operation of `sparsecse.disk`, or at a random time.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import forked, write_checkpoint

from sparsecse import stages
from sparsecse.cli import main
from sparsecse.encoders import Encoder, load_encoder
from sparsecse.exporting.folder import staged
from sparsecse.files import file_hash
from sparsecse.packing import pack
from sparsecse.pruning.recipe import Recipe
from sparsecse.scoring import ScoringSettings
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.training import TrainingSettings
from sparsecse.workdir import Workdir

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

EVERY = 30
"""One in so many of the moments is died at in the default tests."""
KILLS = 200
SEED = 0

# The command line in a process that sends itself one signal as a stage's folder is put in place, and one as what was
# written is deleted. A process of its own: a fork has neither its threads nor its signals as a user's has.
SIGNALLED = """
import os, signal, sys
from pathlib import Path

from sparsecse import disk
from sparsecse.cli.app import entry_point

folder, first, second = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

def interrupted(operation, *arguments):
    if operation.__name__ == "_exchange" or (operation.__name__ == "replace" and arguments[1] == folder):
        os.kill(os.getpid(), first)
    if operation.__name__ == "_remove" and second:
        os.kill(os.getpid(), second)
    return operation(*arguments)

disk.perform = interrupted
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.argv = ["sparsecse", *sys.argv[4:]]
entry_point()
"""

Tree = dict[str, str]


class Dying:
    """Takes the place of `disk.perform`: kills the process at one operation, counted from 1.

    when: "before" it, "amid" it (a folder is then deleted in part), or "after" it.
    """

    def __init__(self, at: int = 0, when: str = "before"):
        self.at, self.when = at, when
        self.names: list[str] = []

    def __call__(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        self.names.append(operation.__name__)
        if len(self.names) != self.at:
            return operation(*arguments)
        if self.when == "after":
            operation(*arguments)
        if self.when == "amid" and arguments[0].is_dir():
            for path in sorted(path for path in arguments[0].rglob("*") if path.is_file())[::2]:
                path.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


class Noting(Dying):
    """Kills nothing. Notes each operation, with "=" before it where nothing below a folder changed since the last one.

    copies: where the folder is copied to before each operation without "=", as "1", "2", ...
    """

    def __init__(self, place: Path, copies: Path | None = None):
        super().__init__()
        self.place, self.copies, self.state = place, copies, None

    def __call__(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        found = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in self.place.rglob("*")}
        same, self.state = found == self.state, found
        at = len(self.names) + 1
        if self.copies is not None and not same:
            shutil.copytree(self.place, self.copies / str(at))
        result = super().__call__(operation, *arguments)
        if same:
            self.names[-1] = f"={operation.__name__}"
        return result


def operations(work: Callable[[], object], place: Path, copies: Path | None = None) -> list[str]:
    """The names of the operations of some work below `place`, which is done in a forked process; see `Noting`."""
    noting = Noting(place, copies)
    report = place.parent / "names.json"

    def told() -> None:
        work()
        report.write_text(json.dumps(noting.names))

    assert forked(told, noting) == 0
    return json.loads(report.read_text())


def moments(names: list[str], every: int = 1) -> list[tuple[int, str]]:
    """When to die: before each operation, amid each deletion, after the last; all of them, or one in so many."""
    found = [(at, "before") for at, name in enumerate(names, start=1) if not name.startswith("=")]
    found += [(at, "amid") for at, name in enumerate(names, start=1) if name.endswith("_remove")]
    found.append((len(names), "after"))
    return sorted(found)[random.Random(SEED).randrange(every) :: every]


def tree(folder: Path) -> Tree:
    """SHA-256 of each file by its path; of records without the date and the duration, which differ between two runs."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "record.json":
            content = json.loads(path.read_text())
            del content["created"], content["seconds"]
            found[name] = json.dumps(content)
        elif path.is_file():
            found[name] = file_hash(path)
        elif path.is_dir():
            found[name] = ""
    return found


def part(whole: Tree, folder: str) -> Tree:
    return {name: sha for name, sha in whole.items() if name.startswith(f"{folder}/")}


class Job:
    """What is interrupted: a dense training, and a whole run in a run directory that already has another one."""

    def __init__(self, root: Path, sentences: list[str], pairs: Any):
        self.root, self.run = root, root / "run"
        (root / "text.txt").write_text("\n".join(sentences) + "\n")
        rows = [f"{a}\t{b}\t{s}" for a, b, s in zip(pairs.first, pairs.second, pairs.scores, strict=True)]
        (root / "pairs.tsv").write_text("sentence1\tsentence2\tscore\n" + "\n".join(rows) + "\n")
        self.model = write_checkpoint(root / "model", "bert", num_hidden_layers=2)
        self.options = ModelOptions(str(self.model), pooling="mean", normalize=True)

    def plan(self, **changes: Any) -> stages.Plan:
        text, pairs = DataOptions(str(self.root / "text.txt")), DataOptions(str(self.root / "pairs.tsv"))
        training = TrainingSettings(batch_size=4, max_steps=2, eval_every=1, precision="float32")
        own = {"recipe": Recipe(sparsity=0.25), "tasks": pairs.name, "training": training, "bench_sentences": 0}
        own["scoring"] = ScoringSettings(precision="float32")
        return stages.Plan(**{"model": self.options, "data": pairs, "train_data": text, **own, **changes})

    def before(self) -> None:
        """What the run directory holds at first."""
        stages.run(Workdir(self.run), self.plan(rewind_to=str(self.model), training=None))
        Workdir(self.run).retire("rewind")
        stages.run(Workdir(self.run), self.plan(rewind_to=str(self.model)))

    def train(self) -> None:
        """A dense training, which keeps a step to rewind to."""
        run, text = Workdir(self.run), DataOptions(str(self.root / "text.txt"))
        training = TrainingSettings(
            objective={"unsup": 1.0}, batch_size=4, max_steps=2, eval_every=1, keep_steps=(1,), precision="float32"
        )
        with run.lock():
            stages.train_dense(run, self.options, text, training)

    def work(self) -> None:
        """A run, which replaces every folder of the one before, and sets the rewind aside."""
        run = Workdir(self.run)
        with run.lock():
            stages.run(run, self.plan(recipe=Recipe(sparsity=0.5), method="magnitude"))

    def again(self, kept: Path) -> None:
        """Put the run directory back to what it was."""
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(kept, self.run)


@pytest.fixture(scope="module")
def job(tmp_path_factory, sentences, pairs) -> Job:
    job = Job(tmp_path_factory.mktemp("job"), sentences, pairs)
    assert forked(job.before) == 0
    shutil.copytree(job.run, job.root / "kept")
    return job


WORK = pytest.mark.parametrize("name", ["train", "work"])


def resumed(job: Job, work: Callable[[], None], expected: Tree, moment: object) -> None:
    """Go on, and compare; a packed folder must be whole before, too."""
    packs = part(tree(job.root / "kept"), "packed"), part(expected, "packed")
    assert part(tree(job.run), "packed") in packs, moment
    assert forked(work) == 0, moment
    assert tree(job.run) == expected, moment


@WORK
def test_dying_at_an_operation(job, name):
    kept, work = job.root / "kept", getattr(job, name)
    job.again(kept)
    names = operations(work, job.run)
    expected = tree(job.run)
    assert {"replace", "_sync", "_remove"} <= {name.removeprefix("=") for name in names}
    for moment in moments(names, EVERY):
        job.again(kept)
        assert forked(work, Dying(*moment)) == -signal.SIGKILL, moment
        resumed(job, work, expected, moment)


@pytest.mark.nightly
@WORK
def test_every_state_that_a_death_can_leave(job, name):
    """What a process leaves that dies at an operation is what lay there before: the copies are resumed from."""
    kept, copies, work = job.root / "kept", job.root / "copies" / name, getattr(job, name)
    job.again(kept)
    names = operations(work, job.run, copies)
    expected = tree(job.run)
    found = moments(names)
    for number, (at, when) in enumerate(found, start=1):
        if when == "before":
            job.again(copies / str(at))
        else:
            job.again(kept)
            assert forked(work, Dying(at, when)) == -signal.SIGKILL
        resumed(job, work, expected, (at, when))
        print(f"{name}: {number} of {len(found)} states, {len(names)} operations", flush=True)


@pytest.mark.nightly
@WORK
def test_kills_at_random_times(job, name):
    kept, draw, work = job.root / "kept", random.Random(SEED), getattr(job, name)
    job.again(kept)
    start = time.monotonic()
    assert forked(work) == 0
    seconds, expected, killed, written = time.monotonic() - start, tree(job.run), 0, 0
    while killed < KILLS // 2:
        job.again(kept)
        code = forked(work, kill_after=draw.uniform(0, seconds))
        if code == 0:
            continue  # it was through before
        assert code == -signal.SIGKILL
        killed, written = killed + 1, written + (tree(job.run) != tree(kept))
        resumed(job, work, expected, killed)
        print(f"{name}: {killed} of {KILLS // 2} kills, {written} with something written before", flush=True)


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (signal.SIGINT, None, 130),
        (signal.SIGTERM, None, 143),
        (signal.SIGINT, signal.SIGINT, -signal.SIGINT),
    ],
)
def test_signals(job, tmp_path, first, second, code):
    """The first one leaves a stage in order, with a sentence; another, while it is left, ends the process at once."""
    run = Workdir(tmp_path / "run")
    given = ["--data", str(job.root / "pairs.tsv"), "--pooling", "mean", "--precision", "float32", "--threads", "1"]
    arguments = ["score", str(job.model), *given, "--workdir", str(run.path)]
    script = [sys.executable, "-c", SIGNALLED, str(run.folder("score")), str(int(first)), str(int(second or 0))]
    done = subprocess.run([*script, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert ("Interrupted; the same command goes on" in done.stderr) == (code > 0)
    assert {path.name for path in run.path.iterdir() if not path.name.startswith(".score.")} == set()
    assert len(list(run.path.glob(".score.*"))) == (code < 0)
    assert main(arguments) == 0
    assert {path.name for path in run.path.iterdir()} == {"score"}


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.nightly)])
def test_dying_in_a_pack_over_another(bert, tmp_path, every):
    kept, place = tmp_path / "kept", tmp_path / "place"
    pack(bert, kept / "out")
    export(load_encoder(kept / "out"), kept / "out", {"onnx/model.onnx": "old"})

    def work() -> None:
        pack(bert, place / "out", dtype="float16")

    _, new = check_every_death(kept, place, work, every)
    assert not any("/onnx/" in name for name in new)


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("files", [("model.onnx",), ("model.onnx", "model.onnx_data")])
def test_dying_in_an_export_over_another(bert, tmp_path, files, every):
    kept, place = tmp_path / "kept", tmp_path / "place"
    pack(bert, kept / "out")
    encoder = load_encoder(kept / "out")
    export(encoder, kept / "out", {f"onnx/{name}": f"old {name}" for name in files})
    shutil.copytree(kept, place)
    encoder = load_encoder(place / "out")

    def work() -> None:
        export(encoder, place / "out", {f"onnx/{name}": f"new {name}" for name in files})

    # With several files there may be no model for a moment, and never one of mixed files.
    check_every_death(kept, place, work, every, broken=len(files) > 1)
    # What a death leaves is no obstacle to a pack.
    names = [name.removeprefix("=") for name in operations(work, place)]
    shutil.rmtree(place)
    shutil.copytree(kept, place)
    assert forked(work, Dying(names.index("replace") + 2)) == -signal.SIGKILL
    assert any(path.name.startswith(".export.") for path in (place / "out").iterdir())
    pack(bert, place / "out", dtype="float16")
    assert not (place / "out/onnx").exists() and not list((place / "out").glob(".*"))


def export(encoder: Encoder, folder: Path, files: dict[str, str]) -> None:
    """What an export does with its files, which are texts here."""
    main = next(iter(files))
    with staged(folder, encoder, Path(main)) as stage:
        (stage / main).parent.mkdir()
        for name, text in files.items():
            (stage / name).write_text(text)


def check_every_death(kept: Path, place: Path, work: Callable[[], None], every: int, broken: bool = False):
    """Die at operations of some work on a copy of `kept`; returns its files before and after the work.

    broken: files of `onnx/` may be missing after a death.
    """

    def again() -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(kept, place)

    again()
    old, names = published(place), operations(work, place)
    new, whole = published(place), tree(place)
    for moment in moments(names, every):
        again()
        assert forked(work, Dying(*moment)) == -signal.SIGKILL, moment
        found = published(place)
        if broken and "out/onnx/model.onnx" not in found:
            left_out = {name for name in new if "/onnx/" in name}
            assert {**found, **{name: new[name] for name in left_out}} == new, moment
        else:
            assert found in (old, new), moment
        assert forked(work) == 0, moment
        assert tree(place) == whole, moment
    again()
    return old, new


def published(place: Path) -> Tree:
    """The files of a folder that anything reads: not our list of exports, nor what has a temporary name."""
    return {
        name: sha
        for name, sha in tree(place).items()
        if sha and not name.endswith("/export.json") and not any(part.startswith(".") for part in name.split("/"))
    }
