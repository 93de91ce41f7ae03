"""Scoring without graded pairs: two dropout views of each sentence, the same masks again, and every later stage."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from conftest import write_checkpoint
from scipy.stats import spearmanr
from studies import STUDIES

from sparsecse import stages
from sparsecse.cli import main
from sparsecse.datasets import DropoutViews, dropout_views, graded_pairs, views_of
from sparsecse.encoders import load_encoder
from sparsecse.encoders.dropout import own_dropout, seeded_masks, with_dropout
from sparsecse.encoders.gates import Gates, gated
from sparsecse.errors import InputError
from sparsecse.evaluation import load_tasks
from sparsecse.pruning.recipe import Recipe
from sparsecse.scoring import METHODS, Objective, Scores, ScoringSettings, contributions
from sparsecse.scoring.memory import bytes_per_token
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.studies.setup import Setup, StudySettings
from sparsecse.studies.study import run_study, write_report
from sparsecse.training import TrainingSettings
from sparsecse.workdir import Workdir


@pytest.fixture
def views(sentences) -> DropoutViews:
    return views_of(sentences, "tests")


@pytest.fixture
def text_file(tmp_path, sentences) -> str:
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join(sentences) + "\n")
    return str(path)


def assert_same(left: Scores, right: Scores, rtol: float) -> None:
    for a, b in zip(left.heads + left.neurons, right.heads + right.neurons, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=rtol, atol=rtol * float(b.abs().max()))


@pytest.mark.parametrize("dropout", [None, 0.3])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_scores_are_the_plain_gradients_of_the_objective_written_out(tmp_path, sentences, dropout, weight):
    """One graph over all views, alignment and uniformity by loops over sentences, in double precision."""
    folder = write_checkpoint(tmp_path, "bert", num_hidden_layers=2, num_attention_heads=2, intermediate_size=5)
    encoder = load_encoder(folder, pooling="mean", normalize=True).double()
    views = views_of(sentences, "tests", dropout=dropout, seed=7)
    found = contributions(encoder, views, Objective(weight), batch_size=3)
    assert own_dropout(encoder) == pytest.approx(0.1)

    count = len(sentences)
    gates: list[tuple[torch.Tensor, Gates]] = []
    unit: list[torch.Tensor] = [torch.empty(0)] * (2 * count)
    encoder.train()
    with with_dropout(encoder, dropout):
        for number, (rows, batch) in enumerate(encoder.batches(encoder.tokenize(views.sentences()), 3)):
            own = Gates.ones(encoder.model, batch=len(batch))
            with seeded_masks(encoder.device, 7, number), gated(encoder.model, own, batch.cu_lengths):
                output = F.normalize(encoder.forward_packed(batch), dim=-1)
            gates.append((rows, own))
            for row, vector in zip(rows.tolist(), output, strict=True):
                unit[row] = vector
    align = sum((unit[i] - unit[count + i]).square().sum() for i in range(count)) / count
    between = [
        torch.exp(-2 * (unit[a] - unit[b]).square().sum())
        for a in range(2 * count)
        for b in range(2 * count)
        if a % count != b % count
    ]
    uniform = torch.stack(between).mean().log()
    (weight * align + (1 - weight) * uniform).backward()
    assert found.values["alignment"] == pytest.approx(align.item(), rel=1e-5) and align > 0.001
    assert found.values["uniformity"] == pytest.approx(uniform.item(), rel=1e-5)
    for position, score in enumerate([*found.heads, *found.neurons]):
        gradients = torch.cat([own.tensors()[position].grad for _, own in gates])
        torch.testing.assert_close(score, gradients.abs().mean(dim=0), rtol=1e-6, atol=1e-10)


def test_masks_come_again_whatever_is_kept_in_memory(bert, views, monkeypatch):
    def scores(bytes_left: int) -> Scores:
        monkeypatch.setattr("sparsecse.scoring.memory.room", lambda _: bytes_left)
        return contributions(bert, views, batch_size=2, precision="float32")

    torch.manual_seed(5)
    state = torch.get_rng_state()
    everything = scores(2**40)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert_same(scores(2**40), everything, rtol=0)
    assert_same(scores(0), everything, rtol=1e-4)
    assert_same(scores(30 * bytes_per_token(bert.model)), everything, rtol=1e-4)


def test_what_a_pass_with_dropout_keeps_is_what_is_reckoned(encoder, sentences):
    encoder.train().requires_grad_(False)
    batch = encoder.pack(encoder.tokenize(sentences))
    own = {parameter.data_ptr() for parameter in encoder.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and len(tensor) >= len(batch.input_ids):
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    gates = Gates.ones(encoder.model, batch=len(batch))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), gated(encoder.model, gates, batch.cu_lengths):
        encoder.forward_packed(batch)
    reckoned = len(batch.input_ids) * bytes_per_token(encoder.model)
    assert 0.7 * reckoned < sum(kept.values()) < 1.25 * reckoned


def test_the_seed_and_the_probability_decide_the_masks(bert, sentences, tmp_path):
    bert.eval()
    scores = [
        contributions(bert, views_of(sentences, "tests", dropout=dropout, seed=seed), precision="float32")
        for dropout, seed in ((None, 0), (0.1, 0), (0.1, 1), (0.3, 0))
    ]
    assert not bert.training and own_dropout(bert) == pytest.approx(0.1)
    assert_same(scores[1], scores[0], rtol=0)
    assert all(not torch.equal(other.neurons[0], scores[0].neurons[0]) for other in scores[2:])
    assert scores[3].values["alignment"] > scores[0].values["alignment"] > 0
    # A model without dropout gets BERT's.
    with with_dropout(bert, 0.0):
        assert_same(contributions(bert, views_of(sentences, "tests"), precision="float32"), scores[0], rtol=0)
        assert own_dropout(bert) == 0


@pytest.mark.parametrize("method", [name for name in METHODS if name != "leave-one-out"])
def test_every_method_but_the_oracle_scores_views(bert, views, method):
    scores = METHODS[method].score(bert, views, ScoringSettings(precision="float32"))
    assert scores.sizes() == bert.model.config.layer_sizes()


def test_bfloat16_scores_views_alike(bert, views):
    exact, rough = (contributions(bert, views, precision=precision) for precision in ("float32", "bfloat16"))
    rank = spearmanr(torch.cat(exact.neurons), torch.cat(rough.neurons)).statistic
    assert rank > 0.9 and rough.values["alignment"] == pytest.approx(exact.values["alignment"], rel=0.1)


def test_the_oracle_refuses_views(bert, views):
    with pytest.raises(InputError, match="leave-one-out needs gold scores, and tests"):
        METHODS["leave-one-out"].score(bert, views, ScoringSettings())


def test_which_data_has_gold_scores(tmp_path, pairs_file, text_file, sentences):
    assert len(graded_pairs(pairs_file)) == 6 and graded_pairs("demo").scores
    assert graded_pairs(text_file) is None
    table = tmp_path / "table.tsv"
    table.write_text("sentence\tid\nthe cat\t1\nthe dog\t2\n")
    assert graded_pairs(table) is None and graded_pairs(table, columns=["sentence"]) is None
    assert dropout_views(table).first == ("the cat", "the dog")
    ungraded = tmp_path / "pairs.csv"
    ungraded.write_text("sentence1,sentence2\nthe cat,a cat\nthe dog,a cat\n")
    assert graded_pairs(ungraded) is None
    assert dropout_views(ungraded).sentences() == ["the cat", "a cat", "the dog"] * 2
    with pytest.raises(InputError, match="neither a file nor a known set"):
        graded_pairs(tmp_path / "none.txt")
    drawn = dropout_views(text_file, limit=4, seed=1)
    assert drawn == dropout_views(text_file, limit=4, seed=1) != dropout_views(text_file, limit=4, seed=2)
    assert [s for s in sentences if s in drawn.first] == list(drawn.first) and len(drawn) == 4
    (tmp_path / "one.txt").write_text("the cat\n")
    with pytest.raises(InputError, match="has one sentence"):
        dropout_views(tmp_path / "one.txt")


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Run the command line in an empty folder; returns (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARSECSE_WORKDIR", raising=False)
    monkeypatch.delenv("SPARSECSE_DATA_DIR", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_stages_on_sentences_alone(call, sentence_folder, text_file, pairs_file, tmp_path):
    code, out, _ = call("score", sentence_folder, "--data", text_file, "--json")
    record = json.loads(out)
    assert code == 0 and record["info"]["sentences"] == 8 and record["info"]["alignment"] > 0
    chosen = {name: record["settings"][name] for name in ("positives", "dropout", "limit", "seed")}
    assert chosen == {"positives": "dropout", "dropout": None, "limit": 3000, "seed": 0}
    code, _, err = call("score", sentence_folder, "--data", text_file)
    assert code == 0 and "already has these scores" in err

    for options in (["--sparsity", "auto"], ["--sparsity", "0.25", "--reconstruct"]):
        code, _, err = call("prune", *options)
        assert code == 2 and "sentences.txt has no gold scores" in err and "--dev" in err
        assert call("prune", *options, "--dev", pairs_file)[0] == 0
    assert call("prune", "--sparsity", "0.5", "--rounds", "2")[0] == 0
    assert call("prune", "--sparsity", "0.25")[0] == 0
    training = ["--data", text_file, "--steps", "2", "--train-batch-size", "4", "--eval-every", "1"]
    code, out, _ = call("finetune", *training)
    assert code == 0 and "no dev set, the last weights are kept" in out
    code, _, err = call("finetune", *training, "--teacher", "cuts")
    assert code == 2 and "cuts is chosen by scores and labelled dev sets" in err
    code, out, _ = call("finetune", *training, "--dev", pairs_file, "--teacher", "cuts", "--json")
    assert code == 0 and json.loads(out)["info"]["teachers"][0] == 0.0
    assert call("pack", "--out", "packed")[0] == 0
    assert (tmp_path / "packed" / "config.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--positives", "gold"], "sentences.txt has no gold scores for --positives gold"),
        (["--positives", "silver"], "--positives 'silver' is unknown"),
        (["--dropout", "0"], "dropout 0 makes no two views"),
        (["--limit", "1"], "--limit 1 is below 2"),
        (["--method", "leave-one-out"], "leave-one-out needs gold scores"),
    ],
)
def test_what_cannot_be_scored(call, sentence_folder, text_file, options, message):
    code, out, err = call("score", sentence_folder, "--data", text_file, *options)
    assert code == 2 and not out and message in " ".join(err.split())


def test_graded_pairs_by_dropout_are_another_score(call, sentence_folder, pairs_file):
    code, _, err = call("score", sentence_folder, "--data", pairs_file, "--dropout", "0.2")
    assert code == 2 and "--positives dropout" in err
    code, out, _ = call("score", sentence_folder, "--data", pairs_file, "--json")
    assert code == 0 and "positives" not in json.loads(out)["settings"]
    code, out, _ = call("score", sentence_folder, "--data", pairs_file, "--positives", "dropout", "--json")
    assert code == 0 and json.loads(out)["info"]["sentences"] == 8
    # The gold scores are still there to choose by.
    assert call("prune", "--sparsity", "0.25", "--reconstruct")[0] == 0


def test_a_whole_run_without_gold_scores(tmp_path, sentence_folder, text_file):
    plan = stages.Plan(
        model=ModelOptions(str(sentence_folder)),
        data=DataOptions(text_file),
        train_data=DataOptions(text_file),
        recipe=Recipe(sparsity=0.25, reconstruct=True),
        tasks="demo-test",
        training=TrainingSettings(batch_size=4, max_steps=2, eval_every=1, patience=3),
        bench_sentences=0,
    )
    done = stages.run(Workdir(tmp_path / "run"), plan)
    assert "has no gold scores" in done["prune"][0].info["reconstruction"]["left_out"]
    assert done["finetune"][0].info["dev"] is None and done["finetune"][0].info["steps"] == 2
    assert all(reused for _, reused in stages.run(Workdir(tmp_path / "run"), plan).values())


def test_the_study_of_the_data(tmp_path, bert, pairs, sentences):
    folder = tmp_path / "senteval" / "downstream" / "STS" / "STSBenchmark"
    folder.mkdir(parents=True)
    rows = [
        f"main\tnews\t2012\t{i}\t{s}\t{a}\t{b}\n"
        for i, (a, b, s) in enumerate(zip(pairs.first, pairs.second, pairs.scores, strict=True))
    ]
    (folder / "sts-train.csv").write_text("".join(rows[:5]))
    setup = Setup(
        name="tiny",
        dense=bert,
        score_pairs=pairs,
        tasks=load_tasks("demo-test").pairs,
        sentences=sentences,
        cosines=tmp_path / "cosines",
        settings=StudySettings(sparsities=(0.25,)),
        data_dir=str(tmp_path / "senteval"),
    )
    study = STUDIES["data"].load()
    content = run_study("data", study, setup, tmp_path)
    results = content["results"]
    sets = ["tiny-dev", "stsb-train", "tiny-dev-dropout", "sentences-0", "sentences-1"]
    assert [cell["set"] for cell in results.values() if cell["kind"] == "scores"] == sets
    assert [cell["positives"] for cell in results.values() if cell["kind"] == "scores"] == ["gold"] * 2 + [
        "dropout"
    ] * 3
    agreements = [cell for cell in results.values() if cell["kind"] == "agreement"]
    assert len(agreements) == 10 and all(-1 <= cell["neurons"] <= 1 for cell in agreements)
    first, second = (contributions(bert, own) for own in (pairs, views_of(pairs.sentences(), "tests")))
    expected = spearmanr(torch.cat(first.neurons), torch.cat(second.neurons)).statistic
    assert results["agreement/tiny-dev/tiny-dev-dropout"]["neurons"] == pytest.approx(expected, abs=1e-3)
    assert {cell["set"] for cell in results.values() if cell["kind"] == "cut"} == set(sets)
    assert run_study("data", study, setup, tmp_path)["results"] == results
    write_report(study, content, tmp_path)
    report = (tmp_path / "data.md").read_text()
    assert "scored on 5 sets" in report and report.count("| tiny-dev ") == 1
    assert "Between a set with gold scores and one without" in report
