"""Choices on dev: sets of three kinds, and the rule that what is labelled may not be lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import WORDS

from sparsecse import stages
from sparsecse.cli import main
from sparsecse.datasets import draw_retrieval, load_retrieval
from sparsecse.encoders import Encoder, load_encoder
from sparsecse.errors import InputError
from sparsecse.evaluation import retrieval, spearman
from sparsecse.evaluation.dev import Dev, DevSet, load_dev
from sparsecse.guard import Guard
from sparsecse.pruning.ensemble import GRID, Ensemble, choose_sparsity, choose_teachers, largest_allowed
from sparsecse.pruning.masks import Budget, select
from sparsecse.pruning.recipe import Recipe
from sparsecse.pruning.surgery import prune
from sparsecse.runtime import Runtime
from sparsecse.scoring import contributions
from sparsecse.sources import DataOptions, DevOptions, ModelOptions
from sparsecse.training import TrainingSettings, train
from sparsecse.training.held_out import hold_out
from sparsecse.workdir import Workdir

DENSE = {"similarity": 80.0, "retrieval": 40.0, "agreement": 100.0}


def figures(similarity=None, retrieval=None, agreement=None) -> dict[str, float]:
    given = {"similarity": similarity, "retrieval": retrieval, "agreement": agreement}
    return {kind: figure for kind, figure in given.items() if figure is not None}


@pytest.mark.parametrize(
    ("candidates", "wanted", "allowed"),
    [
        # What similarity gains is no excuse for what retrieval loses.
        ([figures(79.9, 39.9), figures(83.0, 39.0), figures(80.5, 39.9)], 2, True),
        # Kinds weigh the same, each as its difference to dense.
        ([figures(81.0, 40.0), figures(80.0, 41.5)], 1, True),
        # The tolerance itself is allowed.
        ([figures(80.0, 40.0), figures(81.0, 39.75)], 1, True),
        # None is allowed: the worst kind decides, not the mean.
        ([figures(77.0, 40.0), figures(78.0, 38.0), figures(90.0, 37.0)], 1, False),
        # A candidate that is allowed comes before every one that is not.
        ([figures(90.0, 39.0), figures(79.8, 39.8)], 1, True),
        # Agreement is in the mean, and never forbids.
        ([figures(80.0, agreement=97.0), figures(80.5, agreement=95.0)], 0, True),
        ([figures(80.0, agreement=90.0), figures(81.0, agreement=89.5)], 1, True),
        ([figures(agreement=60.0), figures(agreement=61.0)], 1, True),
        # Of equals the first.
        ([figures(80.0), figures(80.0)], 0, True),
    ],
)
def test_the_rule(candidates, wanted, allowed):
    guard = Guard(DENSE, 0.25)
    best = max(candidates, key=guard.rank)
    assert candidates.index(best) == wanted and guard.allows(best) == allowed


def test_the_rule_of_auto():
    def curve(*rows):
        return [{"sparsity": number / 10, "dev": figures(*row)} for number, row in enumerate(rows)]

    rows = curve((80.0, 40.0), (80.5, 39.9), (81.0, 39.7), (82.0, 39.0), (79.0, 40.0))
    assert largest_allowed(rows, Guard(DENSE, 0.35)) == 0.2
    assert largest_allowed(rows, Guard(DENSE, 0.2)) == 0.1
    assert largest_allowed(rows, Guard(DENSE, 0.05)) == 0.0
    assert largest_allowed(curve((80.0,), (79.0,), (79.9,)), Guard(DENSE, 0.3)) == 0.2


def test_a_bad_tolerance():
    for settings in (Recipe, TrainingSettings):
        with pytest.raises(InputError, match="`tolerance` -1 is below 0"):
            settings(tolerance=-1)
        with pytest.raises(InputError, match="`tolerance` inf is no"):  # a record could not hold it
            settings(tolerance=float("inf"))
    with pytest.raises(InputError, match="`time_budget` inf is not a finite number"):
        TrainingSettings(time_budget=float("inf"))


# --- dev sets


@pytest.fixture(scope="module")
def documents() -> list[str]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(WORDS), (30, 5), generator=generator).tolist()
    return [" ".join(WORDS[i] for i in row) for row in rows]


@pytest.fixture
def collection(tmp_path, documents, sentence_folder) -> Path:
    """A retrieval set whose judgements are the dense model's ranking: its nDCG is 100, and whatever moves it loses."""
    folder = tmp_path / "collection"
    (folder / "qrels").mkdir(parents=True)
    texts = [{"_id": f"d{number}", "text": text} for number, text in enumerate(documents)]
    queries = [{"_id": f"q{number}", "text": text} for number, text in enumerate(("a cat", "the dog", "old house"))]
    for name, rows in (("corpus", texts), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    encoder = load_encoder(sentence_folder)
    ranks = encoder.encode([row["text"] for row in queries]) @ encoder.encode(documents).T
    best = ranks.topk(8).indices.tolist()
    rows = [f"q{query}\td{row}\t{8 - rank}\n" for query, found in enumerate(best) for rank, row in enumerate(found)]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))
    return folder


@pytest.fixture
def text_file(tmp_path, documents) -> Path:
    path = tmp_path / "held-out.txt"
    path.write_text("\n".join(documents))
    return path


@pytest.fixture
def dense(sentence_folder) -> Encoder:
    return load_encoder(sentence_folder)


def test_dev_sets_are_recognised_and_measured(dense, pairs_file, pairs, collection, text_file, documents):
    sets = load_dev([f"{pairs_file},{collection}", str(text_file), "demo", str(collection)])
    assert [one.kind for one in sets] == ["similarity", "retrieval", "agreement", "similarity"]
    assert "30 documents, 3 queries" in sets[1].name and "30 sentences" in sets[2].name
    assert len({one.fingerprint() for one in sets}) == 4
    dev = Dev(sets[:3], dense)
    cut = prune(dense, select(contributions(dense, pairs), Budget(4, 30)))
    found = dev(cut)
    assert found["similarity"] == spearman(Runtime(cut, "float32"), pairs)
    assert found["retrieval"] == retrieval(load_retrieval(collection), Runtime(cut, "float32")).ndcg_at_10 < 100
    assert found["agreement"] < 100 == dev.guard.dense["agreement"]
    assert dev.guard.dense["retrieval"] == pytest.approx(100)
    # The sets of a kind are averaged.
    both = Dev([sets[0], sets[3]], dense)
    assert both(cut)["similarity"] == pytest.approx(sum(both.each(cut)) / 2)


def test_what_is_no_dev_set(tmp_path, pairs):
    (tmp_path / "classes.tsv").write_text("text\tlabel\na\tx\nb\ty\n")
    (tmp_path / "bare.tsv").write_text("sentence1\tsentence2\na cat\ta dog\n")
    bare = type(pairs)("bare", "all", pairs.first, pairs.second, None, None, "bare")
    for name, message in (
        (str(tmp_path / "classes.tsv"), "is none of graded pairs"),
        (str(tmp_path / "nowhere"), "is none of graded pairs"),
        (str(tmp_path / "bare.tsv"), "no gold scores"),
        (bare, "no gold scores"),
        ("demo,agreement", "here is no training"),
    ):
        with pytest.raises(InputError, match=message):
            load_dev(name)


@pytest.mark.parametrize("dev", ["agreement", "{text}"])
def test_training_has_no_dense_model_to_agree_with(tmp_path, sentence_folder, documents, dev):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(documents))
    model, data, names = (
        ModelOptions(str(sentence_folder)),
        DataOptions(str(text)),
        DevOptions((dev.format(text=text),)),
    )
    with pytest.raises(InputError, match="no dense model to agree with"):
        stages.train_dense(Workdir(tmp_path / "run"), model, data, TrainingSettings(), names)


def test_of_a_large_collection_a_fixed_sample_is_taken(collection, monkeypatch):
    whole = load_retrieval(collection)
    relevant = {name for grades in whole.judgements.values() for name in grades}
    drawn = draw_retrieval(whole, len(relevant) + 2, 3)
    assert relevant < drawn.documents.keys() and len(drawn.documents) == len(relevant) + 2
    assert drawn.fingerprint() == draw_retrieval(whole, len(relevant) + 2, 3).fingerprint()
    fewer = draw_retrieval(whole, 1, 1)
    assert len(fewer.queries) == 1 and fewer.documents.keys() == set(*map(set, fewer.judgements.values()))
    monkeypatch.setattr("sparsecse.evaluation.dev.DOCUMENTS", 5)
    assert "drawn with seed 0 from 30 and 3" in DevSet.of(whole).name


def test_held_out_sentences_are_in_no_example(documents):
    examples = [(text,) for text in documents * 10]
    assert hold_out(examples[:50], 0) == (examples[:50], None)
    many = [(f"{one} {other}",) for one in documents for other in documents]
    left, held = hold_out([*many, *many], 0)
    assert held is not None and held.kind == "agreement"
    assert set(held.sentences()).isdisjoint(text for (text,) in left) and len(left) < 2 * len(many)


# --- choices


def test_prompts_reach_what_is_remembered(sentence_folder, pairs, collection):
    dense = load_encoder(sentence_folder)
    dense.settings = type(dense.settings)(
        dense.settings.pooling, dense.settings.normalize, 40, {"query": "the old house ", "document": "a bird "}
    )
    ensemble = Ensemble(dense, contributions(dense, pairs), Dev(load_dev(str(collection)), dense))
    direct = retrieval(load_retrieval(collection), Runtime(ensemble.encoder(0.4), "float32"))
    assert direct.query_prompt == "the old house "
    assert ensemble.figures(0.4)["retrieval"] == pytest.approx(direct.ndcg_at_10)


def test_a_gain_in_similarity_that_costs_retrieval_is_not_taken(checkpoints, pairs, collection, dense):
    examples = list(zip(pairs.first, pairs.second, strict=True))
    settings = TrainingSettings(
        {"graded": 1.0}, learning_rate=1e-3, batch_size=6, max_steps=10, eval_every=5, warmup_ratio=0.0
    )
    sets = [DevSet.of(pairs), *load_dev(str(collection))]

    def trained(dev: Dev):
        return train(dense.copy(), examples, settings, scores=pairs.scores, dev=dev)

    alone = trained(Dev(sets[:1], dense))
    assert alone.best_step > 0 and alone.best["similarity"] > alone.history[0]["dev"]["similarity"]
    guarded = trained(Dev(sets, dense))
    assert guarded.history[-1]["dev"]["similarity"] > guarded.history[0]["dev"]["similarity"]
    assert guarded.history[-1]["dev"]["retrieval"] < 99
    assert guarded.best_step == 0 and guarded.best == guarded.history[0]["dev"]


def test_auto_and_the_teachers_keep_to_what_is_labelled(ensemble, collection):
    ensemble.dev = Dev([*ensemble.dev.sets, *load_dev(str(collection))], ensemble.dense, 0.5)
    sparsity, curve = choose_sparsity(ensemble)
    assert sparsity in GRID and curve[0]["dev"] == pytest.approx(ensemble.dev.guard.dense)
    loss = {point["sparsity"]: ensemble.dev.guard.shortfall(point["dev"]) for point in curve}
    assert loss[sparsity] <= 0.5 and all(loss[other] > 0.5 for other in loss if other > sparsity)
    assert set(curve[1]["sets"]) == {one.name for one in ensemble.dev.sets}
    # Whatever is averaged with the dense model loses retrieval.
    assert choose_teachers(ensemble)[0] == (0.0,)


def test_auto_removes_nothing_where_everything_costs(run, collection, monkeypatch, capsys):
    monkeypatch.setattr("sparsecse.pruning.ensemble.GRID", (0.0, 0.4, 0.6))
    command = ["prune", "--sparsity", "auto", "--dev", str(collection), "--workdir", str(run.path)]
    assert main(command) == 0
    assert "No head or neuron leaves: every cut tried loses more than 0.3 points" in capsys.readouterr().err
    record = run.need("prune")
    assert record.info["auto"]["sparsity"] == 0.0 == record.settings["removed_neurons"]
    assert main([*command, "--tolerance", "100"]) == 0
    assert run.need("prune").info["auto"]["sparsity"] == 0.6


def test_sentences_alone_choose_no_sparsity(run, text_file, capsys):
    assert main(["prune", "--sparsity", "auto", "--dev", str(text_file), "--workdir", str(run.path)]) == 2
    assert "has no labels; give graded pairs or a retrieval set as --dev" in capsys.readouterr().err
    # A reconstruction they do choose.
    stages.prune(run, Recipe(sparsity=0.5, reconstruct=True), dev=DevOptions((str(text_file),)))
    assert set(run.need("prune").info["reconstruction"]["dev"]) == {"agreement"}


def test_a_repair_shows_and_records_every_kind(run: Workdir, tmp_path, pairs_file, collection, documents, capsys):
    stages.prune(run, Recipe(sparsity=0.5))
    text = tmp_path / "training.txt"
    text.write_text("\n".join(f"{one} {other}" for one in documents[:15] for other in documents[15:]))
    command = ["finetune", "--data", str(text), "--steps", "2", "--train-batch-size", "4", "--eval-every", "1"]
    command += ["--workdir", str(run.path), "--dev", f"{pairs_file},{collection}", "--dev", "agreement"]
    assert main(command) == 0
    printed = capsys.readouterr()
    record = run.need("finetune")
    assert record.info["dev"].endswith("held out of training (22 sentences)") and record.info["examples"] == 225 - 22
    history = json.loads((run.folder("finetune") / "history.json").read_text())
    assert [set(entry["dev"]) for entry in history] == [{"similarity", "retrieval", "agreement"}] * 3
    kept = history[record.info["best_step"]]["dev"]
    for kind in kept:
        assert f"{kind} {history[0]['dev'][kind]:.2f} before, {kept[kind]:.2f} after" in printed.out
    assert "similarity" in printed.err and "(best: step" in printed.err
    assert ("within 0.3 points of dense, and no step does" in printed.out) == (not record.info["within_tolerance"])


def test_a_dense_training_has_nothing_to_agree_with(tmp_path, sentence_folder, text_file):
    with pytest.raises(InputError, match="no dense model to agree with"):
        stages.train_dense(
            Workdir(tmp_path / "new"),
            ModelOptions(str(sentence_folder)),
            DataOptions(str(text_file)),
            TrainingSettings({"unsup": 1.0}),
            DevOptions((str(text_file),)),
        )
