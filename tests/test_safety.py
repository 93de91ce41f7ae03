"""Nothing of the user's is replaced or deleted, and what a stage reads is refused where it was damaged or changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_checkpoint

from sparsecse import stages
from sparsecse.cli import main
from sparsecse.encoders import Encoder, load_encoder
from sparsecse.errors import InputError
from sparsecse.evaluation import load_tasks
from sparsecse.exporting.folder import staged
from sparsecse.files import atomic_directory
from sparsecse.packing import pack, publication
from sparsecse.processors import check_threads
from sparsecse.pruning.recipe import Recipe
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.stages.models import load_named
from sparsecse.studies.study import Study, run_study
from sparsecse.training import TrainingSettings, train
from sparsecse.workdir import Workdir

COMMANDS = {
    "train": ["train", "nowhere", "--data", "nothing.txt"],
    "score": ["score", "nowhere", "--data", "nothing.tsv"],
    "prune": ["prune", "--sparsity", "0.5"],
    "rewind": ["rewind", "--to", "nowhere"],
    "finetune": ["finetune", "--data", "nothing.txt"],
    "pack": ["pack"],
    "run": ["run", "nowhere", "--data", "nothing.tsv"],
    "eval": ["eval"],
    "bench": ["bench"],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, sentence_folder, pairs, sentences) -> Path:
    """A folder with a run directory (scores, a cut, a rewind), and what it was made from."""
    root = tmp_path_factory.mktemp("whole")
    shutil.copytree(sentence_folder, root / "model")
    rows = [f"{a}\t{b}\t{s}" for a, b, s in zip(pairs.first, pairs.second, pairs.scores, strict=True)]
    (root / "pairs.tsv").write_text("sentence1\tsentence2\tscore\n" + "\n".join(rows) + "\n")
    (root / "text.txt").write_text("\n".join(sentences))
    run = Workdir(root / "run")
    stages.score(run, ModelOptions(str(root / "model")), DataOptions(str(root / "pairs.tsv")))
    stages.prune(run, Recipe(sparsity=0.5))
    stages.rewind(run, str(write_checkpoint(root / "earlier", "bert", seed=5)))
    return root


@pytest.fixture
def run(whole, tmp_path) -> Workdir:
    """The run directory for this test alone; its model and data are those of `whole`."""
    shutil.copytree(whole / "run", tmp_path / "run")
    return Workdir(tmp_path / "run")


def call(capsys, *arguments: object) -> str:
    """The sentence that a command is refused with."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("Error: ") and "\n" not in err
    return err


def tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip(path: Path) -> None:
    """One bit, in the middle of the file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("command", "theirs"),
    [
        ("score", "score/my.tsv"),
        ("score", "train/my.txt"),
        ("train", "train/my.txt"),
        ("prune", "prune"),
        ("rewind", "rewind/notes/a"),
        ("finetune", "finetune/my.txt"),
        ("pack", "pack/my.txt"),
        ("eval", "eval/my.txt"),
        ("bench", "bench/my.txt"),
        ("run", "choose/my.txt"),
        ("run", "finetune.retired/my.txt"),
    ],
)
def test_a_folder_of_the_users_in_a_stages_place(capsys, tmp_path, command, theirs):
    path = tmp_path / "run" / theirs
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    before = tree(tmp_path)
    said = call(capsys, *COMMANDS[command], "--workdir", tmp_path / "run")
    assert f"{tmp_path / 'run' / theirs.split('/')[0]} was not written by sparsecse" in said and "--workdir" in said
    assert tree(tmp_path) == before


def test_only_our_own_temporary_folders_are_deleted(tmp_path):
    run = Workdir(tmp_path)
    done = {"score": {}, "train": {}}
    for stage in done:
        run.run_stage(stage, {}, {}, lambda folder: {})
    theirs = [".train-data", ".train-0123456789", ".score.tmp", ".score.old.tmp", ".other.01234567.tmp"]
    ours = [".score.01234567.tmp", ".train-0123456789ab"]
    for name in theirs + ours:
        (tmp_path / name).mkdir()
    with run.lock():
        run.drop_partials("train")
    assert {path.name for path in tmp_path.iterdir()} == {*theirs, *done}


def test_a_file_of_the_users_in_a_stages_folder(tmp_path):
    run = Workdir(tmp_path)
    calls = []

    def work(folder: Path, **options: str) -> dict:
        calls.append(folder)
        (folder / "own").write_text("ours")
        return {}

    run.run_stage("rewind", {}, {}, work)
    (tmp_path / "rewind/model").mkdir()
    (tmp_path / "rewind/model/note").write_text("mine")
    assert run.run_stage("rewind", {}, {}, work)[1]
    with pytest.raises(InputError, match=r"would be replaced, .* did not write \(model/note\); move them away"):
        run.run_stage("rewind", {}, {"other": 1}, work)
    assert len(calls) == 1
    run.retire("rewind")
    run.run_stage("rewind", {}, {}, work)
    with pytest.raises(InputError, match=r"rewind\.retired would be replaced"):
        run.retire("rewind")
    assert (tmp_path / "rewind.retired/model/note").read_text() == "mine" and (tmp_path / "rewind/own").exists()

    def disturbed(folder: Path) -> dict:
        (tmp_path / "rewind/late").write_text("mine")
        return {}

    with pytest.raises(InputError, match=r"did not write \(late\)"):
        run.run_stage("rewind", {}, {"other": 1}, disturbed)
    assert (tmp_path / "rewind/late").exists()


def test_a_folder_behind_a_link_is_replaced_there(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/old").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with atomic_directory(tmp_path / "link") as folder:
        (folder / "new").write_text("new")
    assert (tmp_path / "link").is_symlink() and [path.name for path in (tmp_path / "disk").iterdir()] == ["new"]


@pytest.mark.parametrize("name", ["note.txt", "1_Pooling/note.txt", "README.md", ".git/config"])
def test_packing_again_keeps_what_the_user_put_there(bert, tmp_path, name):
    pack(bert, tmp_path / "out")
    (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / name).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=rf"`out` .*\({name}\); move them away"):
        pack(bert, tmp_path / "out", dtype="float16")
    assert tree(tmp_path) == before
    (tmp_path / "out" / name).unlink()
    assert pack(bert, tmp_path / "out", dtype="float16")["dtype"] == "float16"


def test_exports_replace_only_exports(bert, sentence_folder, tmp_path):
    def export(folder: Path, text: str) -> None:
        with staged(folder, encoder, Path("onnx/model.onnx")) as stage:
            (stage / "onnx").mkdir()
            (stage / "onnx/model.onnx").write_text(text)

    folder = tmp_path / "model"
    shutil.copytree(sentence_folder, folder)
    encoder = load_encoder(folder)
    (folder / "onnx").mkdir()
    (folder / "onnx/model.onnx").write_text("downloaded")
    with pytest.raises(InputError, match=r"did not write, .*\(onnx/model.onnx\); move them away"):
        export(folder, "ours")
    assert (folder / "onnx/model.onnx").read_text() == "downloaded"
    (folder / "onnx/model.onnx").unlink()
    for place in (folder, tmp_path / "new"):
        export(place, "ours")
        export(place, "again")
        assert (place / "onnx/model.onnx").read_text() == "again"
        assert list(json.loads((place / "export.json").read_text())["files"]) == ["onnx/model.onnx"]
    # Exports go with the pack that they are of; what was changed in them stays.
    pack(bert, tmp_path / "packed")
    encoder = load_encoder(tmp_path / "packed")
    export(tmp_path / "packed", "ours")
    (tmp_path / "packed/onnx/model.onnx").write_text("mine")
    with pytest.raises(InputError, match=r"\(onnx/model.onnx\)"):
        pack(bert, tmp_path / "packed")
    (tmp_path / "packed/onnx/model.onnx").write_text("ours")
    pack(bert, tmp_path / "packed")
    assert not (tmp_path / "packed/onnx").exists()


@pytest.mark.parametrize(
    ("stage", "file", "command"),
    [
        ("score", "scores.safetensors", ["prune", "--sparsity", "0.25"]),
        ("prune", "mask.safetensors", ["rewind", "--to", "{earlier}"]),
        ("prune", "model/config.json", ["rewind", "--to", "{earlier}"]),
        ("rewind", "model/model.safetensors", ["finetune", "--data", "{text}"]),
        ("rewind", "model/model.safetensors", ["pack"]),
        ("rewind", "model/tokenizer.json", ["pack"]),
        ("rewind", "model/model.safetensors", ["eval", "--tasks", "demo-test"]),
        ("rewind", "model/model.safetensors", ["eval", "{run}", "--tasks", "demo-test"]),
        ("rewind", "model/model.safetensors", ["eval", "{run}/rewind/model", "--tasks", "demo-test"]),
        ("rewind", "model/model.safetensors", ["inspect", "{run}/rewind/model"]),
        ("rewind", "model/model.safetensors", ["bench"]),
        ("rewind", "model/model.safetensors", ["bench", "{run}"]),
        ("rewind", "model/model.safetensors", ["export"]),
    ],
)
def test_one_flipped_bit(capsys, whole, run, stage, file, command):
    flip(run.folder(stage) / file)
    paths = {"earlier": whole / "earlier", "text": whole / "text.txt", "run": run.path}
    before = tree(run.path)
    filled = [part.format(**paths) for part in command]
    said = call(capsys, *filled, *([] if command[0] == "inspect" else ["--workdir", run.path]))
    assert f"{run.folder(stage)} was damaged or changed since '{stage}' wrote it ({file})" in said
    assert f"run `sparsecse {stage}` again" in said
    assert tree(run.path) == before


def test_inspect_shows_what_is_damaged(capsys, run):
    assert main(["inspect", str(run.path)]) == 0
    flip(run.folder("rewind") / "model/model.safetensors")
    capsys.readouterr()
    assert main(["inspect", str(run.path), "--json"]) == 2
    out, err = capsys.readouterr()
    assert [name for name, stage in json.loads(out)["stages"].items() if not stage["intact"]] == ["rewind"]
    assert "was damaged or changed since 'rewind'" in err


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_pack_that_was_damaged(bert, tmp_path, capsys, file):
    out, wanted = tmp_path / "out", f"{file} was damaged or changed since `sparsecse pack` wrote it"
    pack(bert, out)
    assert publication(out)["bytes"] and stages.resolve_model(str(out)) == str(out)
    flip(out / file)
    for load in (publication, stages.resolve_model, lambda name: load_named(ModelOptions(str(name)))):
        with pytest.raises(InputError, match=wanted):
            load(out)
    assert wanted in call(capsys, "encode", "demo", tmp_path / "vectors", "--model", out, "--quiet")


@pytest.mark.parametrize("files", ['{"/etc/passwd": "x"}', '{"../note": "x"}', '{"note": []}', "[]"])
def test_lists_of_files_that_no_pack_or_export_wrote(bert, tmp_path, files):
    out = tmp_path / "out"
    pack(bert, out)
    (out / "export.json").write_text(f'{{"files": {files}}}')
    with pytest.raises(InputError, match=r"did not write, or that were changed since \(export\.json\)"):
        pack(bert, out)
    (out / "sparsecse.json").write_text(f'{{"files": {files}}}')
    with pytest.raises(InputError, match="was not written by `sparsecse pack`"):
        pack(bert, out)


@pytest.mark.parametrize("content", ["", '{"stage": "sco', "[]", "null", '{"stage": "score"}', "\x00\xff", "whole"])
def test_a_broken_record(capsys, run, content):
    path = run.folder("score") / "record.json"
    text = path.read_text().replace('"stage": "score"', '"stage": "prune"') if content == "whole" else content
    path.write_text(text, encoding="latin-1")
    said = call(capsys, "prune", "--sparsity", "0.25", "--workdir", run.path)
    assert f"{path} is damaged, or not a record" in said and f"delete {run.folder('score')}" in said


def test_a_model_or_data_that_changed_after_the_scores(tmp_path, sentence_folder, pairs_file):
    shutil.copytree(sentence_folder, tmp_path / "model")
    run = Workdir(tmp_path / "run")
    stages.score(run, ModelOptions(str(tmp_path / "model")), DataOptions(str(pairs_file)))
    text = pairs_file.read_text()
    pairs_file.write_text(text.replace("4.8", "3.1"))
    for recipe in (Recipe(sparsity=0.25, reconstruct=True), Recipe(sparsity=0.25, rounds=2)):
        with pytest.raises(InputError, match=r"is not what .* was scored on any more; restore it"):
            stages.prune(run, recipe)
    pairs_file.write_text(text)
    flip(tmp_path / "model/model.safetensors")
    with pytest.raises(InputError, match=r"is not the model that .* was made from any more; restore it"):
        stages.prune(run, Recipe(sparsity=0.25))


def test_a_damaged_checkpoint_is_not_trained_on_from(bert: Encoder, sentences, tmp_path):
    settings = TrainingSettings(objective={"unsup": 1.0}, batch_size=4, max_steps=1, eval_every=1)
    path = tmp_path / "checkpoint.pt"
    train(bert, [(sentence,) for sentence in sentences], settings, checkpoint=path)
    flip(path)
    with pytest.raises(InputError, match=r"checkpoint\.pt cannot be read .*; delete it to start anew"):
        train(bert, [(sentence,) for sentence in sentences], settings, checkpoint=path)


def test_reports_replace_only_reports(bert, tmp_path):
    tasks = load_tasks("demo-test")
    model = stages.mteb_model("here", bert, "float32")
    for name in ("demo-test.json", "model_meta.json"):
        path = tmp_path / model.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"mine": 1}')
        with pytest.raises(InputError, match=f"{name} is there and was not written by sparsecse; .*`mteb_dir`"):
            stages.check_mteb(tmp_path, model, tasks)
        path.unlink()
    stages.check_mteb(tmp_path, model, tasks)
    (tmp_path / "curve.md").write_text("mine")
    study = Study("A title", lambda setup: [], lambda results: "", lambda results: ([], []), lambda results, axes: None)
    with pytest.raises(InputError, match=r"curve.md was not written by a study; move it away, .*`out`"):
        run_study("curve", study, type("Setup", (), {"identity": dict}), tmp_path)


@pytest.mark.parametrize("wrong", [1.5, "2", None, np.array([2]), torch.tensor(1.5)])
def test_odd_numbers(bert, wrong):
    with pytest.raises(InputError, match=r"`batch_size` .* is not a whole number"):
        bert.encode_ids([[0, 2]], batch_size=wrong)
    if wrong is not None:
        with pytest.raises(InputError, match=r"`threads` .* is not a whole number"):
            check_threads(wrong)
