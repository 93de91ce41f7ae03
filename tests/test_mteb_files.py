"""Results as MTEB's files: the shape by hand, and that MTEB reads it."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest

from sparsecse.cli import main
from sparsecse.datasets import PairSet, RerankingSet, RetrievalSet, TransferSet
from sparsecse.encoders import fingerprint, load_encoder
from sparsecse.errors import InputError
from sparsecse.evaluation import FewShot, Tasks, load_tasks
from sparsecse.evaluation.labelled import Labelled
from sparsecse.evaluation.mteb import MtebModel, mteb_results, task_names

TOPICS = "text\tlabel\nthe cat\ta\nthe river\tb\nthe dog\ta\n"


@pytest.fixture(scope="module")
def written(tmp_path_factory, sentence_folder) -> tuple[Path, dict]:
    """The folder that --mteb-dir wrote of a model, and the JSON of `eval`."""
    root = tmp_path_factory.mktemp("mteb")
    (root / "topics.tsv").write_text(TOPICS)
    command = ["eval", str(sentence_folder), "--tasks", f"demo-test,{root / 'topics.tsv'}"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([*command, "--mteb-dir", str(root / "out"), "--json"]) == 0
    return root / "out/local__tiny-bert" / fingerprint(load_encoder(sentence_folder))[:40], json.loads(out.getvalue())


def test_the_files_of_a_model(written):
    folder, result = written
    assert sorted(path.name for path in folder.iterdir()) == ["demo-test.json", "model_meta.json", "topics.json"]
    revisions = load_tasks("demo-test").fingerprints()
    spearman = round(result["tasks"]["demo-test"]["spearman"] / 100, 6)
    assert json.loads((folder / "demo-test.json").read_text()) == {
        "dataset_revision": revisions["demo-test"],
        "task_name": "demo-test",
        "mteb_version": None,
        "scores": {
            "test": [
                {
                    "main_score": spearman,
                    "cosine_spearman": spearman,
                    "hf_subset": "default",
                    "languages": ["eng-Latn"],
                }
            ]
        },
        "evaluation_time": None,
        "kg_co2_emissions": None,
        "date": None,
        "evaluation_phases": None,
    }
    (topics,) = json.loads((folder / "topics.json").read_text())["scores"]["test"]
    assert topics["main_score"] == topics["v_measure"] and topics["languages"] == []
    meta = json.loads((folder / "model_meta.json").read_text())
    assert (meta["name"], meta["revision"], meta["embed_dim"], meta["max_tokens"]) == (
        "local/tiny-bert",
        folder.name,
        32,
        48,
    )
    assert meta["n_parameters"] > 1000 and meta["loader"] is None


@pytest.mark.slow  # the import of mteb takes seconds
def test_mteb_reads_them(written):
    pytest.importorskip("mteb")
    from mteb.models.model_meta import ModelMeta
    from mteb.results import TaskResult

    folder, result = written
    read = TaskResult.from_disk(folder / "demo-test.json")
    assert read.get_score() == pytest.approx(result["tasks"]["demo-test"]["spearman"] / 100, abs=1e-6)
    assert TaskResult.from_disk(folder / "topics.json").task_name == "topics"
    meta = json.loads((folder / "model_meta.json").read_text())
    assert set(meta) == set(
        ModelMeta.model_validate({key: value for key, value in meta.items() if key != "is_cross_encoder"}).to_dict()
    )


def test_what_each_kind_is_called_and_scored_by():
    lists = RetrievalSet("scifact", "test", {"d": "a"}, {"q": "a"}, {"q": {"d": 1}}, "x")
    labelled = Labelled(("a", "b"), ("0", "1"), "x")
    tasks = Tasks(
        pairs={name: PairSet(name, "test", ("a",), ("b",), (1.0,), None, "x") for name in ("sts12", "sickr-test")},
        transfer={"mr": TransferSet("mr", {}, ("0", "1"), "x")},
        retrieval={"scifact": lists},
        reranking={"d/top_ranked/dev.jsonl": RerankingSet({"q": "a"}, {"q": {"d": "a"}}, {"q": {"d": 1}}, "x")},
        own={"c/intents.train.tsv.gz": FewShot(labelled, labelled)},
    )
    names = {"sts12": "STS12", "sickr-test": "sickr-test", "mr": "mr", "scifact": "scifact"}
    assert task_names(tasks) == {**names, "d/top_ranked/dev.jsonl": "d-dev", "c/intents.train.tsv.gz": "intents.train"}
    result = {
        "sts12": {"spearman": 50.0},
        "sickr-test": {"spearman": 60.0},
        "mr": {"accuracy": 70.0},
        "scifact": {"ndcg_at_10": 40.0, "recall_at_100": 90.0, "mrr_at_10": 30.0},
        "d/top_ranked/dev.jsonl": {"map_at_1000": 20.0, "mrr_at_10": 25.0},
        "c/intents.train.tsv.gz": {"measures": {"accuracy_8_shot": 80.0, "f1_8_shot": 75.0, "accuracy_16_shot": 85.0}},
    }
    files = mteb_results({"tasks": result}, tasks)
    rows = {name: content["scores"]["test"][0] for name, content in files.items()}
    assert {name: row["main_score"] for name, row in rows.items()} == {
        "STS12": 0.5,
        "sickr-test": 0.6,
        "mr": 0.7,
        "scifact": 0.4,
        "d-dev": 0.2,
        "intents.train": 0.8,
    }
    assert rows["scifact"]["recall_at_100"] == 0.9 and rows["intents.train"]["f1"] == 0.75
    with pytest.raises(InputError, match=r"a/topics\.tsv and b/topics\.csv would both be topics\.json"):
        task_names(Tasks(own=dict.fromkeys(("a/topics.tsv", "b/topics.csv"), FewShot(labelled, labelled))))


def test_the_folder_of_a_hub_id():
    assert MtebModel("org/a model", "abc", 1, 1, 1).folder == Path("org__a_model/abc")


def test_a_run_directory_writes_both_models(run, tmp_path, sentence_folder, pairs_file, capsys):
    assert main(["prune", "--sparsity", "0.5", "--workdir", str(run.path)]) == 0
    command = ["eval", "--tasks", str(pairs_file), "--workdir", str(run.path), "--mteb-dir", str(tmp_path / "out")]
    for _ in range(2):  # the second time nothing is measured again
        assert main(command) == 0
    found = sorted(path.relative_to(tmp_path / "out").parts for path in (tmp_path / "out").rglob("pairs.json"))
    assert [model for model, *_ in found] == ["local__tiny-bert", "local__tiny-bert-pruned"] and found[0][1] != found[
        1
    ][1]
    capsys.readouterr()
    assert main([*command, "--documents", "dense"]) == 2
    assert "--mteb-dir gets the results of one model, and --documents is another" in capsys.readouterr().err
