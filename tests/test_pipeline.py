"""The run directory: stages follow from each other, are not run twice, survive kills, and refuse what is not theirs."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from conftest import forked, write_checkpoint

from sparsecse import stages
from sparsecse.encoders import load_encoder
from sparsecse.errors import InputError
from sparsecse.files import atomic_directory, atomic_file
from sparsecse.pruning.recipe import Recipe
from sparsecse.scoring import ScoringSettings
from sparsecse.sources import DataOptions, DevOptions, ModelOptions
from sparsecse.training import TrainingSettings
from sparsecse.training.examples import training_data
from sparsecse.workdir import Workdir


@pytest.fixture
def run(run) -> Workdir:
    """A run directory with scores and a cut of a half."""
    stages.prune(run, Recipe(sparsity=0.5))
    return run


@pytest.fixture
def text_file(tmp_path, sentences) -> str:
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join(sentences) + "\n")
    return str(path)


def repair(workdir: Workdir, text_file: str, progress=None, **changes):
    chosen = TrainingSettings(**{"batch_size": 4, "max_steps": 4, "eval_every": 2, **changes})
    return stages.finetune(workdir, DataOptions(text_file), chosen, progress=progress)


def test_pruning_again_does_not_score_again(run):
    before = (run.folder("score") / "record.json").read_bytes()
    record, reused = stages.prune(run, Recipe(sparsity=0.5))
    assert reused and record.info["kept"] == [list(kept) for kept in record.info["kept"]]
    record, reused = stages.prune(run, Recipe(head_sparsity=0.25))
    assert not reused
    assert sum(heads for heads, _ in record.info["kept"]) == 9
    assert (run.folder("score") / "record.json").read_bytes() == before


def test_another_precision_scores_again_and_is_recorded(run, sentence_folder, pairs_file):
    model, data = ModelOptions(str(sentence_folder)), DataOptions(str(pairs_file))
    assert run.need("score").settings["precision"] == "auto"
    record, reused = stages.score(run, model, data, scoring=ScoringSettings(precision="bfloat16"))
    assert not reused
    assert record.settings["precision"] == record.info["precision"] == "bfloat16"
    assert stages.score(run, model, data, scoring=ScoringSettings(precision="bfloat16"))[1]


def test_the_newest_model_follows_from_the_stages_before_it(run, text_file, tmp_path):
    assert run.newest_model() == ("prune", [])
    stages.rewind(run, str(write_checkpoint(tmp_path / "earlier", "bert", seed=5)))
    assert run.newest_model() == ("rewind", [])
    repair(run, text_file)
    assert run.newest_model() == ("finetune", [])
    stages.prune(run, Recipe(sparsity=0.25))
    stage, reasons = run.newest_model()
    assert stage == "prune"
    assert (
        reasons
        == [
            "'finetune' was made from another 'rewind'; run `sparsecse finetune` again"
            if "rewind" in run.need("finetune").inputs
            else reasons[0],
            "'rewind' was made from another 'prune'; run `sparsecse rewind` again",
        ]
        or "another 'prune'" in reasons[-1]
    )
    record, _ = stages.pack(run)
    assert record.info["stage"] == "prune"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": Recipe()}, "Nothing says how much to prune"),
        ({"tasks": "nonsense"}, "no task 'nonsense'"),
        ({"dev": DevOptions(("nowhere.txt",))}, "nowhere.txt is none of graded pairs"),
        ({"aligned": True}, "`aligned` takes a retrieval task"),
        ({"aligned": True, "tasks": "demo", "teachers": [ModelOptions("cuts")]}, "leave `teacher` out"),
    ],
)
def test_what_a_late_stage_refuses_is_refused_before_the_first(tmp_path, changes, message):
    options = {"recipe": Recipe(sparsity=0.25), "tasks": "demo-test", "training": TrainingSettings(), **changes}
    plan = stages.Plan(ModelOptions("nowhere"), DataOptions("demo"), DataOptions("demo"), **options)
    with pytest.raises(InputError, match=message):
        stages.run(Workdir(tmp_path / "run"), plan)


def test_a_model_without_scores_is_repaired_by_agreement(tmp_path, sentence_folder, text_file):
    workdir = Workdir(tmp_path / "run")
    stages.prune(workdir, Recipe(layers=(0, 2)), ModelOptions(str(sentence_folder)))
    record, _ = repair(workdir, text_file, max_steps=1)
    assert record.settings["held_out"] and record.info["steps"] == 1


def test_the_whole_run_is_done_once_and_what_is_missing_again(tmp_path, sentence_folder, pairs_file, text_file):
    workdir = Workdir(tmp_path / "run")
    plan = stages.Plan(
        model=ModelOptions(str(sentence_folder)),
        data=DataOptions(str(pairs_file)),
        train_data=DataOptions(text_file),
        recipe=Recipe(sparsity=0.25),
        tasks="demo-test",
        training=TrainingSettings(batch_size=4, max_steps=3, eval_every=2),
        bench_sentences=8,
        bench={"batch_sizes": (2,), "orders": ("given",), "rounds": 1, "threads": 1},
    )
    first = stages.run(workdir, plan)
    assert list(first) == ["score", "prune", "finetune", "eval", "pack", "bench"]
    assert not any(reused for _, reused in first.values())
    again = stages.run(workdir, plan)
    assert all(reused for _, reused in again.values())
    shutil.rmtree(workdir.folder("packed"))
    (workdir.folder("finetune") / "history.json").write_text("[]")
    third = stages.run(workdir, plan)
    assert {stage for stage, (_, reused) in third.items() if not reused} == {"finetune", "pack"}
    facts = stages.inspect_run(workdir)
    assert all(stage["intact"] and stage["stale"] is None for stage in facts["stages"].values())


def test_a_plan_without_repair_sets_an_earlier_repair_aside(run, text_file):
    repair(run, text_file)
    run.retire("finetune")
    assert run.newest_model() == ("prune", [])
    assert (run.path / "finetune.retired" / "record.json").exists()


def test_graded_pairs_of_a_named_set_are_its_train_split(tmp_path):
    folder = tmp_path / "downstream" / "STS" / "STSBenchmark"
    folder.mkdir(parents=True)
    for split, score in (("train", 1.5), ("dev", 2.5)):
        rows = [f"main\tnews\t2012\t{i}\t{score}\tthe cat {i}\tthe dog {i}\n" for i in range(3)]
        (folder / f"sts-{split}.csv").write_text("".join(rows))
    examples, scores = training_data(DataOptions("stsb", None, str(tmp_path)), {"graded", "distill"})
    assert examples[0] == ("the cat 0", "the dog 0") and scores == [1.5] * 3
    _, scores = training_data(DataOptions("stsb", "dev", str(tmp_path)), {"graded"})
    assert scores == [2.5] * 3


def test_rewinding_to_a_step_that_train_kept(tmp_path, sentence_folder, pairs_file, text_file, sentences):
    workdir = Workdir(tmp_path / "run")
    chosen = TrainingSettings(
        objective={"unsup": 1.0}, batch_size=4, max_steps=4, eval_every=2, keep_steps=(1, 3), mlp_head=True
    )
    stages.train_dense(workdir, ModelOptions(str(sentence_folder)), DataOptions(text_file), chosen, None)
    step = workdir.folder("train") / "steps" / "step-000001"
    assert load_encoder(step).encode(sentences).shape == (len(sentences), 32)
    trained = workdir.folder("train") / "model"
    assert json.loads((trained / "config.json").read_text())["model_type"] == "bert"
    stages.score(workdir, ModelOptions(str(trained)), DataOptions(str(pairs_file)))
    stages.prune(workdir, Recipe(sparsity=0.0))
    stages.rewind(workdir, "step-1")
    rewound = load_encoder(workdir.folder("rewind") / "model")
    torch.testing.assert_close(rewound.encode(sentences), load_encoder(step).encode(sentences))
    with pytest.raises(InputError, match=r"kept steps: step-000001, step-000003"):
        stages.rewind(workdir, "step-2")


def test_another_model_or_a_changed_one_is_refused(run, tmp_path, pairs_file, checkpoints):
    other = ModelOptions(str(write_checkpoint(tmp_path / "other", "bert", seed=9)), pooling="mean")
    scores = (run.folder("score") / stages.SCORES_FILE).read_bytes()
    with pytest.raises(InputError, match=r"belongs to another model.*`workdir`"):
        stages.score(run, other, DataOptions(str(pairs_file)))
    assert (run.folder("score") / stages.SCORES_FILE).read_bytes() == scores


def test_stages_need_the_ones_before(tmp_path):
    empty = Workdir(tmp_path / "none")
    with pytest.raises(InputError, match="run `sparsecse score` first"):
        stages.prune(empty, Recipe(sparsity=0.2))
    with pytest.raises(InputError, match="run `sparsecse prune` first"):
        stages.pack(empty)
    assert not empty.path.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        Workdir(tmp_path / "file")


def test_packs_replace_only_packs(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="was not written by `sparsecse pack`"):
        stages.pack(run, out)
    assert (out / "precious.txt").read_text() == "mine"
    stages.pack(run, tmp_path / "packed")
    stages.prune(run, Recipe(sparsity=0.25))
    record, reused = stages.pack(run, tmp_path / "packed")
    assert not reused and record.info["max_difference"] <= 1e-5
    card = (tmp_path / "packed" / "README.md").read_text()
    assert "9 of 12 heads, 54 of 72 neurons" in card and "trust_remote_code=True" in card


def test_atomic_writes_leave_the_old_file_or_folder(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert target.read_text() == "old"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic_directory(folder) as temporary:
        (temporary / "a").write_text("new")
        raise RuntimeError
    assert (folder / "a").read_text() == "old"
    with atomic_directory(folder) as temporary:
        (temporary / "b").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def _hold(path: Path, ready, done) -> None:
    with Workdir(path).lock():
        ready.set()
        done.wait(20)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_one_process_at_a_time(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "run", ready, done))
    holder.start()
    try:
        assert ready.wait(60)
        with pytest.raises(InputError, match="in use by another"), Workdir(tmp_path / "run").lock():
            pass
    finally:
        done.set()
        holder.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_killed_repair_goes_on_and_ends_the_same(run, text_file, tmp_path):
    other = tmp_path / "uninterrupted"
    shutil.copytree(run.path, other)

    def call(path: Path, kill_at: int) -> int:
        def progress(report):
            if report.step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        def work():
            workdir = Workdir(path)
            with workdir.lock():
                repair(workdir, text_file, progress=progress, max_steps=6)

        return forked(work)

    assert call(run.path, 5) == -signal.SIGKILL
    assert run.record("finetune") is None
    assert list(run.path.glob(".finetune-*/checkpoint.pt"))
    assert call(run.path, 99) == 0
    assert call(other, 99) == 0
    assert run.output_hash("finetune", "model/model.safetensors") == Workdir(other).output_hash(
        "finetune", "model/model.safetensors"
    )
    # Nothing of the killed attempt is left.
    assert {path.name for path in run.path.iterdir()} == {"score", "prune", "finetune"}
