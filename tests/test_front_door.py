"""`import sparsecse`: cheap, complete, and the same results in memory as through a run directory."""

import inspect
import subprocess
import sys

import pytest
import torch

import sparsecse
from sparsecse import stages
from sparsecse.datasets import load_pairs
from sparsecse.errors import InputError
from sparsecse.pruning.recipe import Recipe
from sparsecse.pruning.selection import select_by_recipe
from sparsecse.scoring import ScoringSettings
from sparsecse.sources import DataOptions, DevOptions, ModelOptions
from sparsecse.training import TrainingSettings
from sparsecse.workdir import Workdir

TRAINING = TrainingSettings(batch_size=4, max_steps=3, eval_every=2)


def states_equal(one: sparsecse.Encoder, other: sparsecse.Encoder) -> bool:
    mine, theirs = one.model.state_dict(), other.model.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_importing_loads_no_torch_and_every_name_is_there():
    code = (
        "import sys, sparsecse; assert 'torch' not in sys.modules and 'transformers' not in sys.modules;"
        "names = sparsecse.__all__;"
        "print(all(getattr(sparsecse, name) is not None for name in names), set(names) <= set(dir(sparsecse)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["True", "True"]


def test_the_cpu_needs_no_triton(tmp_path, sentence_folder):
    code = (
        "import sys; sys.modules['triton'] = None\n"  # what an absent package looks like
        "import sparsecse\n"
        "from sparsecse.cli import main\n"
        "assert all(getattr(sparsecse, name) is not None for name in sparsecse.__all__)\n"
        "for line in ('score MODEL --data demo', 'prune --sparsity 0.4', 'pack --out packed'):\n"
        "    assert main(line.replace('MODEL', sys.argv[1]).split()) == 0, line\n"
    )
    command = [sys.executable, "-c", code, str(sentence_folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_names_are_what_they_are_whatever_was_imported_first():
    import sparsecse.compression
    import sparsecse.pruning

    for name in ("compress", "score", "prune", "distill", "evaluate", "pack", "accelerate", "load_encoder"):
        assert inspect.isroutine(getattr(sparsecse, name)), name
        assert inspect.getdoc(getattr(sparsecse, name)), name
    with pytest.raises(AttributeError, match="no attribute 'compres'"):
        sparsecse.compres  # noqa: B018


@pytest.mark.parametrize(
    "wanted", [{"sparsity": 0.25}, {"sparsity": 0.5, "rounds": 2}, {"sparsity": "auto", "tolerance": 0.5}]
)
def test_compress_is_run_without_a_directory(tmp_path, sentence_folder, pairs_file, sentences, capsys, wanted):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(sentences))
    plan = stages.Plan(
        model=ModelOptions(str(sentence_folder)),
        data=DataOptions(str(pairs_file)),
        train_data=DataOptions(str(text)),
        recipe=Recipe(reconstruct=True, **wanted),
        tasks="demo-test",
        training=TRAINING,
        bench_sentences=0,
    )
    workdir = Workdir(tmp_path / "run")
    stages.run(workdir, plan)
    dense = sparsecse.load_encoder(sentence_folder)
    before = dense.copy()
    options = {"sparsity": None, **wanted}
    small = sparsecse.compress(dense, data=pairs_file, train_data=text, training=TRAINING, **options)
    assert states_equal(small, sparsecse.load_encoder(workdir.folder("finetune") / "model"))
    assert states_equal(dense, before)
    scores = sparsecse.score(dense, pairs_file)
    capsys.readouterr()
    unrepaired = sparsecse.compress(
        dense, data=pairs_file, scores=scores, repair=False, show_progress_bar=True, **options
    )
    shown = capsys.readouterr().err
    assert "Reconstructing: 100%" in shown and "Scoring" not in shown
    assert unrepaired.model.config.layer_sizes() == small.model.config.layer_sizes()


def test_compress_of_sentences_repairs_on_all_of_them_as_run_does(tmp_path, sentence_folder):
    text, dev = tmp_path / "text.txt", tmp_path / "dev.txt"
    words = ("cat", "dog", "mat", "hill", "house", "river")
    text.write_text("".join(f"the {a} {b}\n" for a in words for b in words))
    dev.write_text("".join(f"a {a} and {b}\n" for a in words for b in words))
    scoring = ScoringSettings(limit=8)
    plan = stages.Plan(
        model=ModelOptions(str(sentence_folder)),
        data=DataOptions(str(text)),
        train_data=DataOptions(str(text)),
        recipe=Recipe(sparsity=0.25, reconstruct=True),
        tasks="demo-test",
        training=TRAINING,
        scoring=scoring,
        dev=DevOptions((str(dev),)),
        bench_sentences=0,
    )
    workdir = Workdir(tmp_path / "run")
    stages.run(workdir, plan)
    small = sparsecse.compress(sentence_folder, 0.25, data=text, dev=dev, scoring=scoring, training=TRAINING)
    assert states_equal(small, sparsecse.load_encoder(workdir.folder("finetune") / "model"))


def test_gold_scores_choose_whatever_is_scored_by(sentence_folder, pairs_file, monkeypatch):
    monkeypatch.setattr("sparsecse.pruning.ensemble.GRID", (0.0, 0.25))
    options = {"scoring": ScoringSettings(positives="dropout"), "tolerance": 200, "reconstruct": False}
    small = sparsecse.compress(sentence_folder, "auto", data=pairs_file, repair=False, **options)
    assert sum(heads for heads, _ in small.model.config.layer_sizes()) == 9


def test_compress_goes_by_scores_that_it_is_given(sentence_folder, pairs_file):
    dense = sparsecse.load_encoder(sentence_folder)
    scores = sparsecse.score(dense, pairs_file, method="random")
    options = {"data": pairs_file, "repair": False, "reconstruct": False}
    small = sparsecse.compress(dense, 0.5, scores=scores, **options)
    assert states_equal(small, sparsecse.prune(dense, scores, 0.5))
    assert not states_equal(small, sparsecse.compress(dense, 0.5, **options))


def test_compress_takes_sentences_alone(sentence_folder, sentences):
    small = sparsecse.compress(sentence_folder, 0.25, data=tuple(sentences), training=TRAINING)
    assert sum(heads for heads, _ in small.model.config.layer_sizes()) == 9
    with pytest.raises(InputError, match="no gold scores"):
        sparsecse.compress(sentence_folder, data=sentences, layers_compete=True)


def test_score_prune_pack_and_evaluate(tmp_path, sentence_folder, pairs_file, pairs):
    encoder = sparsecse.load_encoder(sentence_folder)
    scores = sparsecse.score(encoder, pairs_file)
    same = sparsecse.score(encoder, load_pairs(pairs_file))
    assert all(torch.equal(*both) for both in zip(scores.tensors(), same.tensors(), strict=True))
    small = sparsecse.prune(encoder, scores, 0.5)
    mask = select_by_recipe(Recipe(sparsity=0.5), scores, scores.sizes())
    assert states_equal(small, sparsecse.prune(encoder, mask))
    with pytest.raises(InputError, match="Mask says itself"):
        sparsecse.prune(encoder, mask, 0.5)
    with pytest.raises(InputError, match="use compress"):
        sparsecse.prune(encoder, scores, 0.5, reconstruct=True)
    result = sparsecse.distill(small, encoder, pairs.sentences(), settings=TRAINING, dev=pairs)
    assert result.best["similarity"] >= result.history[0]["dev"]["similarity"]
    packed = sparsecse.pack(small, tmp_path / "packed")
    assert torch.equal(sparsecse.load_encoder(packed["path"]).encode(["a cat"]), small.encode(["a cat"]))
    assert "demo-test" in sparsecse.evaluate(sparsecse.Runtime(small), "demo-test").to_json()["tasks"]
