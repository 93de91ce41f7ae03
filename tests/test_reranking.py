"""Reranking: lists in a table, candidates beside a retrieval set, average precision as others define it, averages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from sparsecse.cli import main
from sparsecse.datasets import load_reranking
from sparsecse.errors import InputError
from sparsecse.evaluation import Evaluation, evaluate, load_tasks
from sparsecse.evaluation.ranking import average_precision, nearest

WORDS = ("red", "blue", "cat", "dog", "sea", "hill")
ROWS = [
    {"query": "red cat", "positive": ["red cat", "cat dog"], "negative": ["blue sea", "red", "red cat"]},
    {"query": "blue sea", "positive": ["sea"], "negative": ["blue sea", "hill"]},
    {"query": "nothing to tell apart", "positive": ["a"], "negative": []},
]


class BagOfWords:
    """Counts of a few words; it remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, sentences: list[str], *, batch_size: int) -> torch.Tensor:
        self.seen += sentences
        return torch.tensor([[float(text.split().count(word)) for word in WORDS] for text in sentences])


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def table(tmp_path) -> Path:
    (tmp_path / "ask.jsonl").write_text(lines(ROWS))
    return tmp_path / "ask.jsonl"


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "tiny"
    texts = {"d1": "red cat", "d2": "cat dog", "d3": "blue sea", "d4": "red", "d5": ""}
    for name, content in {
        "corpus.jsonl": lines({"_id": name, "text": text} for name, text in texts.items()),
        "queries.jsonl": lines({"_id": name, "text": name} for name in ("q1", "q2", "q3")),
        "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\td2\t2\nq1\td3\t1\nq2\td1\t1\n",
        "top_ranked/test.jsonl": lines(
            [{"query-id": "q1", "corpus-ids": ["d1", "d2", "d5", "gone"]}, {"query-id": "q3", "corpus-ids": ["d1"]}]
        ),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_values_by_hand(table):
    # "red cat": a negative and a positive are equal to it, and the negative counts as the first; then "red" (0.71) and
    # "cat dog" (0.5): relevant at ranks 2 and 4. "blue sea": "blue sea" itself is a negative, "sea" is second.
    encoder, steps = BagOfWords(), []
    result = evaluate(encoder, str(table), progress=lambda *step: steps.append(step)).reranking[str(table)]
    assert result.map_at_1000 == pytest.approx(100 * ((1 / 2 + 2 / 4) / 2 + 1 / 2) / 2)
    assert result.mrr_at_10 == pytest.approx(50)
    assert (result.queries, result.candidates, result.left_out_queries) == (2, 8, 1)
    assert steps[-1][0] == steps[-1][1] == len(encoder.seen) == 2 + 6


def test_average_precision_is_scikit_learns_and_trec_evals():
    pytrec_eval = pytest.importorskip("pytrec_eval")
    generator = np.random.default_rng(0)
    names = [f"{number:x}" for number in range(40)]
    runs, judgements, ours = {}, {}, {}
    for number in range(60):
        # Whole numbers for half of the queries: their candidates are full of ties.
        scores = generator.normal(size=40) if number % 2 else generator.integers(-2, 3, 40).astype(float)
        cosines = torch.tensor(scores / 4)[:, None]
        vectors = torch.cat([cosines, (1 - cosines**2).clamp(min=0).sqrt()], dim=1)
        grades = {name: int(grade) for name, grade in zip(names, generator.integers(-1, 3, 40), strict=True)}
        grades[names[0]], judgements[f"q{number}"] = 1, grades
        ranked = nearest(torch.tensor([[1.0, 0.0]]), [(names, vectors)], names, 1000)[0]
        ours[f"q{number}"] = average_precision(ranked, grades, 1000)
        single = torch.nn.functional.normalize(vectors.double(), dim=1)[:, 0].float()
        runs[f"q{number}"] = dict(zip(names, single.tolist(), strict=True))
        if number % 2:  # scikit-learn takes equal scores together
            relevant = [grades[name] > 0 for name in names]
            assert ours[f"q{number}"] == pytest.approx(average_precision_score(relevant, single.numpy()), abs=1e-6)
    theirs = pytrec_eval.RelevanceEvaluator(judgements, {"map"}).evaluate(runs)
    assert ours == pytest.approx({query: values["map"] for query, values in theirs.items()}, abs=1e-6)
    assert average_precision(["a"], {"a": 0}, 10) == 0 and average_precision(["b", "a"], {"a": 1, "z": 1}, 1) == 0
    assert average_precision(["b", "a"], {"a": 1, "z": 1}, 10) == pytest.approx(1 / 4)  # one relevant is no candidate


def test_candidates_of_a_retrieval_set(folder):
    task = load_reranking(folder)
    assert task.candidates == {"q1": {"d1": "red cat", "d2": "cat dog"}} and task.judgements["q1"] == {"d2": 2, "d3": 1}
    assert (task.missing_documents, task.left_out_queries) == (2, 1)
    assert load_reranking(folder / "top_ranked/test.jsonl") == task
    found = load_tasks([str(folder), str(folder / "qrels/test.tsv")])
    assert list(found.reranking) == [str(folder)] and list(found.retrieval) == ["tiny"]
    assert list(load_tasks("retrieval", data_dir=folder.parent).retrieval) == ["tiny"]
    before = found.fingerprint()
    (folder / "top_ranked/test.jsonl").write_text('{"query-id": "q1", "corpus-ids": ["d1"]}\n')
    assert load_tasks([str(folder), str(folder / "qrels/test.tsv")]).fingerprint() != before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"query": "a", "positive": "b", "negative": ["c"]}, r"line 1: 'positive' is 'b'; write a list of texts"),
        ({"query": "a", "positive": ["b"], "negative": [1]}, r"line 1: 'negative' holds 1; write a list of texts"),
        ({"query": "a", "positive": ["b"], "negative": [" "]}, r"line 1: 'negative' has a blank text"),
        ({"query": "", "positive": ["b"], "negative": ["c"]}, r"line 1, column 'query' is blank"),
        ({"query": "a", "positive": ["b"]}, r"has no column 'negative'"),
        ({"query": "a", "positive": ["b"], "negative": []}, r"has no row with texts both in"),
    ],
)
def test_bad_tables(tmp_path, content, message):
    (tmp_path / "x.jsonl").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        load_tasks(str(tmp_path / "x.jsonl"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"query-id": "q1", "corpus-ids": "d1"}], r"line 1: 'corpus-ids' is 'd1'; write a list of ids"),
        ([{"query-id": "q1", "corpus-ids": ["d1"]}] * 2, r"line 2: the query 'q1' has candidates on a line above"),
        ([{"query-id": "q1", "corpus-ids": ["d5"]}], r"has no candidates with text for any judged query"),
        ([{"query": "q1"}], r"has no column 'query-id'"),
    ],
)
def test_bad_candidates(folder, content, message):
    (folder / "top_ranked/test.jsonl").write_text(lines(content))
    with pytest.raises(InputError, match=message):
        load_tasks(str(folder))


def test_each_kind_has_its_own_average(tmp_path, table, monkeypatch, capsys, sentence_folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.jsonl").write_text(lines([{**ROWS[1], "negative": ["hill"]}]))
    for name in ("topics", "places"):
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\nred cat\ta\nblue sea\tb\nred dog\ta\n")
    tasks = "ask.jsonl,two.jsonl,topics.tsv,places.tsv"
    result = evaluate(BagOfWords(), tasks)
    maps = [task.map_at_1000 for task in result.reranking.values()]
    data = result.to_json()
    assert data["reranking_average"] == sum(maps) / 2 and maps[0] != maps[1]
    measures = [data["tasks"][name]["measures"]["v_measure"] for name in ("topics.tsv", "places.tsv")]
    assert data["clustering_average"] == pytest.approx(sum(measures) / 2)
    names = tasks.split(",")
    assert result.figures() == dict(zip(names, [*maps, *measures], strict=True))
    found = load_tasks(tasks)
    assert found.kinds() == dict(zip(names, ["reranking"] * 2 + ["clustering"] * 2, strict=True))
    assert found.find("./two.jsonl") == "two.jsonl" and found.find("three.jsonl") is None
    assert evaluate(BagOfWords(), found.only({"two.jsonl"})).figures() == {"two.jsonl": maps[1]}
    assert {data[f"{kind}average"] for kind in ("", "transfer_", "retrieval_", "classification_")} == {None}
    assert isinstance(result, Evaluation) and result.own_average("classification") is None
    assert main(["eval", str(sentence_folder), "--tasks", tasks]) == 0
    captured = capsys.readouterr()
    assert "Reranking, x100" in captured.out and "average MAP" in captured.out
    assert "average clustering: v measure" in captured.out and "average classification" not in captured.out
    assert "Left out of ask.jsonl: 1 queries without candidates of both kinds" in captured.err
