"""The method on a real model: figures measured before are reproduced, and pruning does what the paper says."""

from __future__ import annotations

import pytest
import torch
from conftest import SENTEVAL, distilbert_twin, needs_senteval, roberta_twin

from sparsecse import stages
from sparsecse.datasets import PairSet, load_pairs, load_sentences
from sparsecse.encoders import Encoder, load_encoder
from sparsecse.encoders.gates import gated
from sparsecse.evaluation import evaluate, spearman
from sparsecse.pruning.costs import multiply_add_cost, select_by_cost
from sparsecse.pruning.masks import Budget, select
from sparsecse.pruning.recipe import Recipe
from sparsecse.pruning.surgery import gates_of, prune
from sparsecse.runtime import Runtime
from sparsecse.scoring import Scores, contributions, magnitude, random
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.training import TrainingSettings
from sparsecse.workdir import Workdir

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dense(minilm) -> Encoder:
    return load_encoder(minilm)


@pytest.fixture(scope="module")
def scores(dense):
    return contributions(dense, part("dev", 3))


def part(split: str, every: int) -> PairSet:
    """Every so many pairs of STS-B."""
    pairs = load_pairs("stsb", split=split, data_dir=SENTEVAL)
    return PairSet(
        "part", split, pairs.first[::every], pairs.second[::every], (pairs.scores or ())[::every], 4.0, "stsb"
    )


@needs_senteval
def test_removing_what_contributes_least_raises_sts_and_rivals_fall(dense, scores):
    """The paper's score against chance and magnitudes at 20 %; `test_evaluation` has the dense figure of the whole."""

    def gain(by: Scores, every: int) -> float:
        cut, pairs = prune(dense, select(by, Budget.of(by.sizes(), sparsity=0.2))), part("test", every)
        return spearman(Runtime(cut, "float32"), pairs) - spearman(Runtime(dense, "float32"), pairs)

    assert gain(scores, 2) > 0.2
    assert max(gain(random(dense, 0), 8), gain(magnitude(dense), 8)) < -1


@needs_senteval
def test_budgets_in_which_heads_and_neurons_compete_choose_well(dense, scores):
    """As good as equal shares of the same cost; plain sums of scores lose up to 19 points more."""
    mask = select_by_cost(scores, multiply_add_cost(dense.model.config), 0.5)
    cut, equal = (prune(dense, one) for one in (mask, select(scores, Budget.of(scores.sizes(), sparsity=0.5))))
    pairs = load_pairs("sickr", split="dev", data_dir=SENTEVAL)
    assert spearman(Runtime(cut), pairs) > spearman(Runtime(equal), pairs) - 0.3


@pytest.mark.nightly  # changes with the set alone
def test_the_demo_retrieval_set_leaves_room_on_both_sides(dense):
    """Hard enough that a better model can show it, easy enough that a worse one can."""
    result = evaluate(Runtime(dense), "demo-retrieval").retrieval["demo-retrieval"]
    assert 75 < result.ndcg_at_10 < 83 and result.recall_at_100 > 97


def test_the_pruned_model_computes_what_the_gated_one_does(dense):
    pairs = load_pairs("demo")
    texts = pairs.sentences()[:64]
    scores = random(dense, 1)
    mask = select(scores, Budget.of(scores.sizes(), sparsity=0.4))
    with gated(dense.model, gates_of(mask, dense.model)):
        expected = dense.encode(texts)
    torch.testing.assert_close(prune(dense, mask).encode(texts), expected, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def few() -> PairSet:
    pairs = load_pairs("demo")
    return PairSet("few", "dev", pairs.first[:12], pairs.second[:12], (pairs.scores or ())[:12], None, "demo")


def test_a_bert_and_its_twins_get_the_same_scores(minilm, dense, few, tmp_path):
    own = contributions(dense, few, precision="float32")
    for make in (roberta_twin, distilbert_twin):
        twin = load_encoder(make(tmp_path / make.__name__, minilm), pooling="mean", normalize=True, max_length=256)
        others = contributions(twin, few, precision="float32")
        for a, b in zip(own.heads + own.neurons, others.heads + others.neurons, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4 * float(a.max()))


def test_bfloat16_keeps_the_ranks(dense, few):
    exact, rough = (contributions(dense, few, precision=precision) for precision in ("float32", "bfloat16"))
    for kind in ("heads", "neurons"):
        ranks = [torch.cat(getattr(scores, kind)).argsort().argsort().double() for scores in (exact, rough)]
        assert torch.corrcoef(torch.stack(ranks))[0, 1] > 0.999


@pytest.mark.nightly  # CI runs the same command on the demo's data
@needs_senteval
def test_a_run_ends_nearer_to_dense_and_smaller(minilm, tmp_path, monkeypatch):
    monkeypatch.setattr("sparsecse.pruning.ensemble.CALIBRATION_TOKENS", 4000)

    def table(split: str, every: int) -> str:
        pairs = part(split, every)
        rows = list(zip(pairs.first, pairs.second, map(str, pairs.scores or ()), strict=True))
        path = tmp_path / f"{split}.tsv"
        path.write_text("\n".join("\t".join(row) for row in [("sentence1", "sentence2", "score"), *rows]))
        return str(path)

    (tmp_path / "text.txt").write_text("\n".join(load_sentences("demo")[::2]))
    plan = stages.Plan(
        model=ModelOptions(str(minilm)),
        data=DataOptions(table("dev", 16)),
        train_data=DataOptions(str(tmp_path / "text.txt")),
        recipe=Recipe(sparsity=0.2),
        tasks=table("test", 8),
        training=TrainingSettings(max_steps=15, batch_size=16, eval_every=15),
        bench_sentences=0,
    )
    done = stages.run(Workdir(tmp_path / "run"), plan)
    repair, results = done["finetune"][0].info, done["eval"][0].info
    assert repair["dev_best"]["agreement"] > repair["dev_before"]["agreement"] + 1
    assert results["pruned"]["average"] > results["dense"]["average"] - 1
    assert done["pack"][0].info["weights_bytes"] < 83_000_000
