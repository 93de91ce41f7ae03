"""Retrieval: sets in BEIR's layout, exact search with trec_eval's order of ties, its measures, prompts, two models."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from pathlib import Path

import pytest
import torch
from conftest import SHARED_DATA, write_checkpoint

from sparsecse.cli import main
from sparsecse.datasets import SetNotFoundError, load_retrieval
from sparsecse.datasets.retrieval import find_retrieval
from sparsecse.encoders import load_encoder, save_encoder
from sparsecse.errors import InputError
from sparsecse.evaluation import evaluate, load_tasks, retrieval
from sparsecse.evaluation.ranking import ndcg, nearest, recall, reciprocal_rank
from sparsecse.runtime import Runtime

RETRIEVAL = SHARED_DATA / "retrieval"
WORDS = ("red", "blue", "cat", "dog", "sea", "hill")

DOCUMENTS = {
    "d1": ("", "red cat"),
    "d2": ("cat", "dog"),  # text: cat dog
    "d3": ("", "blue sea"),
    "d4": ("", "red cat"),  # the same text as d1: a tie
    "d5": ("", "hill"),
}
QUERIES = {"q1": "red cat", "q2": "sea", "q3": "nothing was judged"}
QRELS = [("q1", "d1", 1), ("q1", "d2", 2), ("q2", "d5", 1), ("q2", "d3", 0)]


class BagOfWords:
    """Counts of a few words; it remembers what it was given."""

    def __init__(self, words=WORDS) -> None:
        self.words, self.seen = words, []

    def encode(self, sentences: list[str], *, batch_size: int) -> torch.Tensor:
        self.seen += sentences
        return torch.tensor([[float(text.split().count(word)) for word in self.words] for text in sentences])


def write(folder: Path, documents=DOCUMENTS, queries=QUERIES, qrels=QRELS, split="test") -> Path:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"_id": name, "title": title, "text": text}) for name, (title, text) in documents.items()]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    lines = [json.dumps({"_id": name, "text": text}) for name, text in queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")
    rows = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in qrels)]
    (folder / f"qrels/{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    monkeypatch.delenv("SPARSECSE_DATA_DIR", raising=False)


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "tiny")


# --- the set


def test_a_folder_is_read(folder):
    task = load_retrieval(folder)
    assert (task.name, task.split, len(task)) == ("tiny", "test", 2)
    assert task.documents["d2"] == "cat dog" and task.documents["d1"] == "red cat"
    assert task.queries == {"q1": "red cat", "q2": "sea"}
    assert task.judgements == {"q1": {"d1": 1, "d2": 2}, "q2": {"d5": 1, "d3": 0}}


def test_compressed_files_and_other_splits(folder):
    plain = load_retrieval(folder)
    for path in (folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels/test.tsv"):
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert load_retrieval(folder).fingerprint() == plain.fingerprint()
    (folder / "qrels/dev.tsv").write_text("query-id\tcorpus-id\tscore\nq3\td1\t1\n")
    assert load_retrieval(folder, split="dev").queries == {"q3": "nothing was judged"}
    assert list(load_tasks([str(folder / "qrels/dev.tsv"), str(folder)]).retrieval) == ["tiny-dev", "tiny"]
    with pytest.raises(SetNotFoundError, match=r"has no train\.tsv; the splits that it has are dev, test"):
        load_retrieval(folder, split="train")


def test_what_cannot_be_used_is_counted(tmp_path):
    documents = {**DOCUMENTS, "e1": ("", "  "), "e2": ("", "")}
    qrels = [*QRELS, ("q1", "gone", 1), ("q9", "d1", 1), ("q3", "d1", 0)]
    task = load_retrieval(write(tmp_path / "tiny", documents, QUERIES, qrels))
    assert (task.empty_documents, task.unknown_documents, task.unknown_queries) == (2, 1, 1)
    assert task.irrelevant_queries == 1 and len(task.documents) == 5 and "q9" not in task.judgements
    result = evaluate(BagOfWords(), [str(tmp_path / "tiny")]).to_json()["tasks"]["tiny"]
    assert (result["empty_documents"], result["unknown_documents"], result["unknown_queries"]) == (2, 1, 1)
    # A document that is not there is still one to be found, and a query without a relevant one counts as 0.
    assert result["recall_at_100"] == pytest.approx(100 * (2 / 3 + 1 + 0) / 3)


LINE = '{"_id": "d1", "text": "red"}'


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("corpus.jsonl", f"{LINE}\n{{", r"corpus\.jsonl, line 2 is not valid JSON"),
        ("corpus.jsonl", f"{LINE}\n[1]", r"corpus\.jsonl, line 2 is no JSON object"),
        ("corpus.jsonl", f"{LINE}\n\n{LINE}", r"corpus\.jsonl, line 3: the _id 'd1' is also that of line 1"),
        ("corpus.jsonl", '{"text": "red"}', r"corpus\.jsonl has no column '_id'; the columns present are text"),
        ("corpus.jsonl", f'{LINE}\n{{"text": "red"}}', r"corpus\.jsonl, line 2: '_id' is None"),
        ("corpus.jsonl", '{"_id": "d1", "text": 5}', r"corpus\.jsonl, line 1: 'text' is 5"),
        ("corpus.jsonl", '{"_id": "d1", "text": " "}', r"corpus\.jsonl has no document with text"),
        ("corpus.jsonl", "", r"corpus\.jsonl has no rows"),
        ("corpus.jsonl", '{"_id": "x", "text": "a"}', r"test\.tsv: no relevant document has a text in corpus\.jsonl"),
        ("queries.jsonl", '{"_id": "q1", "text": ""}', r"queries\.jsonl, line 1, column 'text' is blank"),
        ("queries.jsonl", '{"_id": "q1", "text": "a"}\n' * 2, r"queries\.jsonl, line 2: the _id 'q1' is also"),
        ("queries.jsonl", '{"_id": "q7", "text": "a"}', r"test\.tsv judges no query of queries\.jsonl"),
        ("qrels/test.tsv", "q1\td1\t1", r"test\.tsv has no rows"),
        ("qrels/test.tsv", "q1\td1\t1\nq1\td2\t1", r"test\.tsv has no column 'query-id'; the columns present are q1"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1", r"test\.tsv, line 2 has 2 columns"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\thigh", r"test\.tsv, line 2: the score is 'high'"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t0.5", r"test\.tsv, line 2: the score is '0\.5'"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t0", r"test\.tsv has no relevant document"),
        (
            "qrels/test.tsv",
            "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td1\t1\nq1\td1\t2",
            r"test\.tsv, line 4: the score of query 'q1' and document 'd1' is 2, and 1 on a line above",
        ),
    ],
)
def test_bad_input_is_one_sentence_with_file_and_line(folder, file, content, message):
    (folder / file).write_text(content + "\n")
    with pytest.raises(InputError, match=message) as error:
        load_retrieval(folder)
    assert "\n" not in str(error.value)


def test_missing_files(folder):
    (folder / "queries.jsonl").unlink()
    with pytest.raises(InputError, match=r"queries\.jsonl does not exist"):
        load_retrieval(folder)


# --- the measures


def test_values_by_hand(folder):
    # q1 "red cat": d1 and d4 tie at 1 and d4 is first, then d2 ("cat dog", 1/2), then the others at 0.
    # q2 "sea": d3 at 0.7, then d5, d4, d2, d1 at 0, the highest id first: d5 is second.
    first = (1 / math.log2(3) + 2 / math.log2(4)) / (2 / math.log2(2) + 1 / math.log2(3))
    second = 1 / math.log2(3)
    result = evaluate(BagOfWords(), str(folder)).retrieval["tiny"]
    assert result.ndcg_at_10 == pytest.approx(100 * (first + second) / 2, abs=1e-9)
    assert result.mrr_at_10 == pytest.approx(100 * (1 / 2 + 1 / 2) / 2)
    assert result.recall_at_100 == 100
    assert (result.queries, result.documents) == (2, 5)


def test_the_measures_alone():
    grades = {"a": 3, "b": 1, "c": -1, "z": 2}
    ideal = 3 + 2 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(["c", "a", "x", "b"], grades, 10) == pytest.approx((3 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert ndcg(["c", "a"], grades, 1) == 0 and ndcg(["a"], grades, 1) == 1
    assert recall(["c", "a", "b"], grades, 2) == pytest.approx(1 / 3)
    assert reciprocal_rank(["c", "x", "a"], grades, 10) == pytest.approx(1 / 3)
    assert reciprocal_rank(["c", "x", "a"], grades, 2) == 0
    assert ndcg(["c"], {"c": 0}, 10) == recall(["c"], {"c": 0}, 10) == 0


def test_equal_cosines_are_in_descending_order_of_ids():
    names = ["10", "2", "a", "B", "é", "z"]
    vectors = torch.tensor([[1.0, 0], [-2, 0], [1, 0], [0, 3], [0, -1], [5, 0]])
    ranked = nearest(torch.tensor([[2.0, 0]]), [(names, vectors)], names, 6)
    assert ranked == [["z", "a", "10", "é", "B", "2"]]  # cosines 1, 1, 1, 0 (and -0), 0, -1


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_blocks_do_not_matter(folder, block):
    task = load_retrieval(folder)
    whole = retrieval(task, BagOfWords())
    assert retrieval(task, BagOfWords(), block=block) == whole
    names = [f"n{number}" for number in range(40)]
    generator = torch.Generator().manual_seed(5)
    vectors = torch.randint(-1, 2, (40, 4), generator=generator).float()
    queries = torch.randint(-1, 2, (7, 4), generator=generator).float()
    blocks = [(names[start : start + block], vectors[start : start + block]) for start in range(0, 40, block)]
    assert nearest(queries, blocks, names, 9) == nearest(queries, [(names, vectors)], names, 9)


def test_many_queries_are_taken_in_parts(monkeypatch):
    names = [f"n{number}" for number in range(30)]
    generator = torch.Generator().manual_seed(6)
    vectors, queries = (torch.randint(-1, 2, (30, 4), generator=generator).float() for _ in range(2))
    whole = nearest(queries, [(names, vectors)], names, 5)
    monkeypatch.setattr("sparsecse.evaluation.ranking._QUERIES", 7)
    assert nearest(queries, [(names, vectors)], names, 5) == whole


def compare_with_trec_eval(names, vectors, query_names, queries, judgements):
    """The three means of ours and of trec_eval on the same cosines, to 1e-6."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    ranked = nearest(queries, [(names, vectors)], names, 100)
    unit = torch.nn.functional.normalize
    cosines = (unit(queries.double(), dim=1) @ unit(vectors.double(), dim=1).T).float()
    runs = {query: dict(zip(names, row, strict=True)) for query, row in zip(query_names, cosines.tolist(), strict=True)}
    evaluator = pytrec_eval.RelevanceEvaluator(judgements, {"ndcg_cut.10", "recall.100", "recip_rank"})
    theirs = evaluator.evaluate(runs)
    for query, ranking in zip(query_names, ranked, strict=True):
        grades, values = judgements[query], theirs[query]
        assert ndcg(ranking, grades, 10) == pytest.approx(values["ndcg_cut_10"], abs=1e-6)
        assert recall(ranking, grades, 100) == pytest.approx(values["recall_100"], abs=1e-6)
        cut = values["recip_rank"] if values["recip_rank"] > 0.0999 else 0.0  # trec_eval's has no cut
        assert reciprocal_rank(ranking, grades, 10) == pytest.approx(cut, abs=1e-6)


def test_a_set_full_of_ties_is_as_in_trec_eval():
    generator = torch.Generator().manual_seed(0)
    names = [f"{number:x}" for number in range(300)]
    vectors = torch.randint(-1, 2, (300, 4), generator=generator).float()
    queries = torch.randint(-1, 2, (50, 4), generator=generator).float()
    grades = torch.randint(-1, 4, (50, 300), generator=generator) * (torch.rand(50, 300, generator=generator) < 0.1)
    query_names = [f"q{number}" for number in range(50)]
    judgements = {
        query: {name: int(grade) for name, grade in zip(names, row, strict=True) if grade}
        for query, row in zip(query_names, grades.tolist(), strict=True)
    }
    judgements["q0"] = {names[3]: 0, names[4]: -1}
    compare_with_trec_eval(names, vectors, query_names, queries, judgements)


# --- tasks


def test_groups_and_names(tmp_path, folder):
    data = tmp_path / "data"
    write(data / "retrieval/One")
    write(data / "two")
    write(data / "trained", split="train")
    (data / "trained/qrels/test.tsv").unlink(missing_ok=True)
    (data / "downstream").mkdir()
    assert list(find_retrieval(data)) == ["One", "trained", "two"]
    assert list(find_retrieval(data / "downstream")) == ["One"]
    assert list(find_retrieval(data / "two")) == ["two"]
    found = load_tasks("retrieval", data_dir=data)
    assert list(found.retrieval) == ["One", "two"] and "has no test.tsv" in found.missing["trained"]
    assert list(load_tasks("One,two", data_dir=data).retrieval) == ["One", "two"]
    assert list(load_tasks([str(folder), "demo-test"]).retrieval) == ["tiny"]
    assert list(load_tasks([str(folder), str(folder) + "/"]).retrieval) == ["tiny"]
    with pytest.raises(InputError, match="have the same name, 'tiny'"):
        load_tasks([str(folder), str(write(tmp_path / "other/tiny"))])
    for taken in ("mr", "demo-retrieval"):
        with pytest.raises(InputError, match=f"has the name of another task, '{taken}'"):
            load_tasks([str(write(tmp_path / taken))])
    with pytest.raises(InputError, match=r"is no task; .* train\.\* and test\.\*.* a folder with corpus\.jsonl"):
        load_tasks([str(data)])
    with pytest.raises(InputError, match=r"no task 'tow'.* One, trained, two, .*Did you mean two\?"):
        load_tasks("tow", data_dir=data)
    with pytest.raises(SetNotFoundError, match=r"None of the tasks of 'retrieval'.*No folder with corpus\.jsonl"):
        load_tasks("retrieval")


def test_paths_of_both_kinds(tmp_path, folder, monkeypatch):
    labelled = "text\tlabel\nred cat\ta\nblue sea\tb\n"
    for split in ("train", "test"):
        (folder / f"{split}.tsv").write_text(labelled)  # beside corpus.jsonl they do not count
    monkeypatch.chdir(tmp_path)
    Path("topics.tsv").write_text(labelled)
    Path("graded.tsv").write_text("sentence1\tsentence2\tscore\nred cat\tcat\t4\nsea\thill\t1\n")
    write(tmp_path / "data/topics")
    write(tmp_path / "data/demo-test")  # a known name goes before it
    found = load_tasks("topics,tiny,topics.tsv,demo-test,graded.tsv", data_dir="data")
    assert list(found.retrieval) == ["topics", "tiny"] and list(found.own) == ["topics.tsv"]
    assert list(found.pairs) == ["graded.tsv", "demo-test"]
    assert all(name in found for name in ("tiny", "topics.tsv", "graded.tsv", "demo-test")) and "mr" not in found
    kinds = [load_tasks(name, data_dir="data").fingerprint() for name in ("tiny", "topics.tsv", "graded.tsv")]
    assert len({found.fingerprint(), *kinds}) == 4
    assert load_tasks("none") == load_tasks(["None"]) and "tiny" not in load_tasks("none")
    with pytest.raises(InputError, match=r"no task 'none'; .* your own data and of folders in BEIR's layout"):
        load_tasks("none,tiny")
    result = evaluate(BagOfWords(), ["tiny", "graded.tsv", "topics.tsv"]).to_json()
    assert list(result["tasks"]) == ["graded.tsv", "tiny", "topics.tsv"]
    # In the results a set is called as its folder; a path of own data that is called the same would be lost.
    Path("topics").mkdir()
    for split in ("train", "test"):
        Path(f"topics/{split}.tsv").write_text(labelled)
    assert list(load_tasks("topics", data_dir="data").own) == ["topics"]
    with pytest.raises(InputError, match="has the name of another task, 'topics'"):
        load_tasks("topics,data/topics")


def test_all_has_retrieval_where_it_is_found(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    write(tmp_path / "data/retrieval/tiny")
    result = evaluate(BagOfWords(), "all", data_dir=tmp_path / "data").to_json()
    assert list(result["tasks"]) == ["tiny"] and "retrieval" not in result["missing"] and "sts12" in result["missing"]
    assert result["retrieval_average"] == result["tasks"]["tiny"]["ndcg_at_10"] and result["average"] is None


def test_the_fingerprint_covers_retrieval(folder):
    before = load_tasks(str(folder)).fingerprint()
    assert load_tasks(str(folder)).fingerprint() == before
    write(folder, qrels=[*QRELS, ("q1", "d4", 1)])
    assert load_tasks(str(folder)).fingerprint() != before


def test_each_text_is_embedded_once_and_counted(folder):
    encoder, steps = BagOfWords(), []
    evaluate(encoder, [str(folder), "demo-test"], progress=lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1] == len(encoder.seen)
    assert [encoder.seen.count(text) for text in ("cat dog", "blue sea", "red cat")] == [1, 1, 2]  # a query and a text


# --- prompts and two models


@pytest.fixture(scope="module")
def prompted(tmp_path_factory) -> Path:
    """A tiny model with prompts for queries and passages."""
    root = tmp_path_factory.mktemp("prompted")
    encoder = load_encoder(write_checkpoint(root / "plain", "bert"), pooling="mean", normalize=True)
    (root / "model").mkdir()
    save_encoder(encoder, root / "model", stock=True)
    path = root / "model/config_sentence_transformers.json"
    content = json.loads(path.read_text()) | {"prompts": {"query": "red: ", "passage": "blue: "}}
    path.write_text(json.dumps(content))
    return root / "model"


def spy(monkeypatch) -> list[tuple[str, str | None]]:
    """Every (sentence, prompt) that a Runtime is given."""
    seen: list[tuple[str, str | None]] = []
    encode = Runtime.encode

    def remember(self, sentences, *, prompt=None, **options):
        seen.extend((sentence, prompt) for sentence in sentences)
        return encode(self, sentences, prompt=prompt, **options)

    monkeypatch.setattr(Runtime, "encode", remember)
    return seen


def test_the_prompts_of_the_model_are_used(folder, prompted, monkeypatch):
    seen = spy(monkeypatch)
    runtime = Runtime(prompted, "float32")
    named = evaluate(runtime, str(folder)).retrieval["tiny"]
    assert (named.query_prompt, named.document_prompt) == ("red: ", "blue: ")
    assert ("sea", "red: ") in seen and ("cat dog", "blue: ") in seen
    seen.clear()
    given = evaluate(runtime, str(folder), query_prompt="hill ", document_prompt="").retrieval["tiny"]
    assert (given.query_prompt, given.document_prompt) == ("hill ", "")
    assert ("sea", "hill ") in seen and ("cat dog", "") in seen
    assert evaluate(runtime.encoder, str(folder)).retrieval["tiny"].document_prompt == "blue: "


def test_a_default_prompt_for_queries_is_not_put_before_documents(folder, prompted):
    encoder = load_encoder(prompted, prompt="red: ")
    prompts = {"query": "red: "}
    object.__setattr__(encoder.settings, "prompts", prompts)
    result = evaluate(Runtime(encoder, "float32"), str(folder)).retrieval["tiny"]
    assert (result.query_prompt, result.document_prompt) == ("red: ", "")


def test_an_encoder_without_prompts_gets_them_in_the_text(folder):
    encoder = BagOfWords()
    result = evaluate(encoder, str(folder))
    assert result.retrieval["tiny"].query_prompt is None and "sea" in encoder.seen
    evaluate(encoder, str(folder), query_prompt="find ", document_prompt="text ")
    assert {"find sea", "text cat dog"} <= set(encoder.seen)


def test_documents_by_another_model(folder):
    queries, documents = BagOfWords(), BagOfWords()
    result = evaluate(queries, str(folder), documents=documents)
    assert result.to_json() == evaluate(BagOfWords(), str(folder)).to_json()
    assert "cat dog" not in queries.seen and "sea" not in documents.seen
    with pytest.raises(InputError, match=r"`documents` has vectors of 3 numbers, .* of 6; give two models"):
        evaluate(queries, str(folder), documents=BagOfWords(WORDS[:3]))
    for name in ("query_prompt", "document_prompt"):
        with pytest.raises(InputError, match=f"`{name}` is for retrieval and reranking"):
            evaluate(queries, "demo-test", **{name: "a"})


# --- the command line


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARSECSE_WORKDIR", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_eval_of_a_model(call, prompted, tmp_path):
    documents = {**DOCUMENTS, "empty": ("", "")}
    write(tmp_path / "data/retrieval/Tiny", documents, qrels=[*QRELS, ("q1", "gone", 1), ("q9", "d1", 1)])
    arguments = ["eval", prompted, "--tasks", "retrieval", "--data-dir", "data"]
    code, out, err = call(*arguments, "--json")
    result = json.loads(out)
    assert code == 0 and result["retrieval_average"] == result["tasks"]["Tiny"]["ndcg_at_10"]
    assert "Left out of Tiny: 1 documents without text, 1 judged queries without text" in err
    assert "Tiny: 1 judgements name documents that are not in the corpus" in err
    assert "before queries 'red: '" in err and "none used outside retrieval" in err
    code, out, _ = call(*arguments, "--query-prompt", "", "--document-prompt", "dog ", "--documents", prompted)
    assert code == 0 and "nDCG@10" in out and "recall@100" in out and f"documents by {prompted}" in out
    code, out, err = call("eval", prompted, "--tasks", "demo-test", "--documents", prompted)
    assert code == 2 and "--documents is for retrieval and reranking, and there is none among --tasks" in err


def test_eval_refuses_another_size_of_vectors(call, prompted, tmp_path, folder):
    small = write_checkpoint(tmp_path / "small", "bert", hidden_size=16)
    (tmp_path / "saved").mkdir()
    save_encoder(load_encoder(small, pooling="mean", normalize=True), tmp_path / "saved", stock=True)
    code, out, err = call("eval", prompted, "--tasks", folder, "--documents", "saved")
    assert (code, out) == (2, "") and "--documents has vectors of 16 numbers" in err


def test_eval_of_a_run_directory(call, sentence_folder, pairs_file, folder):
    assert call("score", sentence_folder, "--data", pairs_file)[0] == 0
    assert call("prune", "--sparsity", "0.25")[0] == 0
    code, out, _ = call("eval", "--tasks", folder, "--json")
    own = json.loads(out)
    assert code == 0 and own["dense"]["tasks"]["tiny"]["queries"] == 2 and "documents" not in own
    code, out, _ = call("eval", "--tasks", folder, "--documents", "dense", "--json")
    two = json.loads(out)
    assert code == 0 and two["documents"] == "dense"
    assert two["dense"]["tasks"] == own["dense"]["tasks"] and "tiny" in two["tasks"]
    code, out, _ = call("eval", "--tasks", folder, "--documents", "dense")
    assert code == 0 and "documents by dense" in out and "change" in out
    record = json.loads(Path("sparsecse-run/eval/record.json").read_text())
    assert record["settings"]["documents"]["name"] and "documents" in record["inputs"]
    code, out, _ = call("eval", "--tasks", folder, "--aligned", "--json")
    aligned = json.loads(out)
    assert code == 0 and aligned["tasks"] == own["tasks"]
    assert aligned["aligned"]["tasks"] == two["tasks"]  # the pruned model's queries, the dense one's documents
    code, out, _ = call("eval", "--tasks", folder, "--aligned")
    assert code == 0 and "documents by the dense model" in out and "pruned queries" in out
    for wrong in (["--tasks", pairs_file], ["--tasks", folder, "--documents", "dense"], [sentence_folder]):
        code, _, err = call("eval", *wrong, "--aligned")
        assert code == 2 and "--aligned" in err


def test_eval_of_all_kinds_and_agreement(call, sentence_folder, pairs_file, folder):
    assert call("score", sentence_folder, "--data", pairs_file)[0] == 0
    assert call("prune", "--sparsity", "0.25")[0] == 0
    Path("topics.tsv").write_text("text\tlabel\nred cat\ta\nblue sea\tb\nred dog\ta\n")
    Path("text.txt").write_text("".join(f"the {first} {second}\n" for first in WORDS for second in WORDS))
    arguments = ["eval", "--tasks", f"{folder},topics.tsv,{pairs_file}", "--agreement", "text.txt"]
    code, out, _ = call(*arguments, "--documents", "dense", "--json")
    result = json.loads(out)
    assert code == 0 and set(result["tasks"]) == {"tiny", "topics.tsv", str(pairs_file)}
    assert result["agreement"]["data"] == "text.txt" and result["documents"] == "dense"
    code, out, _ = call(*arguments, "--documents", "dense")
    assert code == 0
    for title in ("Spearman x100", "documents by dense", "On your own data", "Agreement with the dense model"):
        assert title in out
    assert call(*arguments)[0] == call("pack", "--out", "packed")[0] == 0
    card = Path("packed/README.md").read_text()
    assert "| tiny |" in card and f"| {pairs_file.name} |" in card
    code, _, err = call("eval", "--tasks", "none", "--agreement", "text.txt", "--documents", "dense")
    assert code == 2 and "--documents is for retrieval and reranking" in err


# --- a real model


class HashedWords:
    """Counts of words in 256 places: fast, and better than chance."""

    def encode(self, sentences, *, batch_size):
        vectors = torch.zeros(len(sentences), 256)
        for row, sentence in enumerate(sentences):
            places = [zlib.crc32(word.encode()) % 256 for word in sentence.lower().split() if len(word) > 3]
            vectors[row].index_add_(0, torch.tensor(places, dtype=torch.long), torch.ones(len(places)))
        return vectors


@pytest.mark.parametrize("name", ["cisi", "npl"])
def test_real_collections_are_measured_as_trec_eval_does(name):
    if not (RETRIEVAL / name).is_dir():
        pytest.skip("the retrieval sets are not on this machine")
    task, model = load_retrieval(RETRIEVAL / name), HashedWords()
    assert evaluate(model, str(RETRIEVAL / name)).retrieval[name].ndcg_at_10 > 5
    documents, queries = (model.encode(list(texts.values()), batch_size=32) for texts in (task.documents, task.queries))
    compare_with_trec_eval(list(task.documents), documents, list(task.queries), queries, task.judgements)
