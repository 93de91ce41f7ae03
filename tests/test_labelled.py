"""The user's own labelled data: files and folders by path, MTEB's protocol against scikit-learn, the command line."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, v_measure_score

from sparsecse.cli import main
from sparsecse.errors import InputError
from sparsecse.evaluation import Clustering, FewShot, classification, evaluate, load_tasks
from sparsecse.evaluation.labelled import Labelled, load_labelled

CLASSES = ("river", "bird", "house")


class Noisy:
    """A direction for each class, as far as the sentence's last word names it, and noise that the sentence decides."""

    def __init__(self, noise: float = 1.0):
        self.noise = noise
        self.seen: list[str] = []

    def encode(self, sentences: list[str], *, batch_size: int) -> torch.Tensor:
        self.seen += sentences
        return torch.from_numpy(np.stack([self.vector(text) for text in sentences]))

    def vector(self, text: str) -> np.ndarray:
        generator = np.random.default_rng(list(text.encode()))
        own = np.zeros(6)
        own[CLASSES.index(text.split()[-1])] = 1
        return (own + self.noise * generator.normal(size=6)).astype(np.float32)

    def rows(self, texts) -> np.ndarray:
        return np.stack([self.vector(text) for text in texts])


def labelled(name: str, count: int) -> Labelled:
    labels = tuple(CLASSES[number % 3] for number in range(count))
    return Labelled(tuple(f"{name} {number} {label}" for number, label in enumerate(labels)), labels, name)


def write(path, data: Labelled):
    lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in zip(data.texts, data.labels, strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def intents(tmp_path):
    folder = tmp_path / "intents"
    folder.mkdir()
    write(folder / "train.tsv", labelled("train", 90))
    write(folder / "test.tsv", labelled("test", 60))
    return folder


# --- protocol


def test_classification_is_what_scikit_learn_gives():
    task, encoder = FewShot(labelled("train", 90), labelled("test", 60)), Noisy()
    result = task.measure(encoder.rows)
    order, tested, wanted = list(range(90)), encoder.rows(task.test.texts), list(task.test.labels)
    accuracies, f1s = [], []
    for _ in range(10):
        np.random.RandomState(42).shuffle(order)
        drawn = [row for name in CLASSES for row in [r for r in order if task.train.labels[r] == name][:8]]
        drawn.sort(key=order.index)
        model = LogisticRegression(max_iter=100, random_state=42)
        model.fit(encoder.rows([task.train.texts[row] for row in drawn]), [task.train.labels[row] for row in drawn])
        predicted = model.predict(tested)
        accuracies.append(100 * np.mean(predicted == wanted))
        f1s.append(100 * f1_score(wanted, predicted, average="macro"))
    assert list(result.measures) == ["accuracy_8_shot", "f1_8_shot", "accuracy_16_shot", "f1_16_shot"]
    assert result.runs["accuracy_8_shot"] == pytest.approx(accuracies, abs=1e-6)
    assert result.measures["f1_8_shot"] == pytest.approx(np.mean(f1s), abs=1e-6)
    assert 40 < result.measures["accuracy_8_shot"] < 100 and len(set(accuracies)) > 1
    assert result.measures["accuracy_16_shot"] > result.measures["accuracy_8_shot"]
    assert (result.examples, result.classes) == (60, 3)


def test_draws_have_as_many_of_each_class_and_differ():
    task = FewShot(labelled("train", 90), labelled("test", 60))
    draws = task.draws(8)
    assert len(draws) == 10 and len({tuple(sorted(rows)) for rows in draws}) == 10
    for rows in draws:
        assert len(set(rows)) == 24 and all(
            [task.train.labels[row] for row in rows].count(name) == 8 for name in CLASSES
        )
    assert FewShot(task.train, task.test, seed=1).draws(8) != draws
    assert all(len(rows) == 9 for rows in FewShot(labelled("train", 9), task.test).draws(8))
    # Of many training sentences only the drawn ones are embedded.
    large = FewShot(labelled("train", 30_000), labelled("test", 60))
    assert len(large.sentences()) <= 60 + 10 * (8 + 16) * 3


def test_draws_are_those_of_mteb():
    abstasks = pytest.importorskip("mteb.abstasks.classification")
    datasets = pytest.importorskip("datasets")
    task = FewShot(labelled("train", 90), labelled("test", 60))
    data = datasets.Dataset.from_dict({"text": task.train.texts, "label": task.train.labels})
    stand_in = type("Task", (), {"seed": 42, "samples_per_label": 8, "label_column_name": "label"})()
    order, found = None, []
    for number in range(10):
        _, order, drawn = abstasks.AbsTaskClassification._undersample_data(stand_in, data, number, order)
        found.append(drawn)
    assert task.draws(8) == found


def test_clustering_is_what_scikit_learn_gives():
    task, encoder = Clustering(labelled("all", 120)), Noisy(0.3)
    result = task.measure(encoder.rows)
    vectors = encoder.rows(task.data.texts)
    wanted = []
    for seed in range(42, 52):
        model = MiniBatchKMeans(n_clusters=3, batch_size=500, n_init="auto", random_state=seed).fit(vectors)
        wanted.append(100 * v_measure_score(task.data.labels, model.labels_))
    assert result.runs["v_measure"] == pytest.approx(wanted, abs=1e-6)
    assert 20 < result.measures["v_measure"] <= 100
    assert Clustering(labelled("all", 120)).measure(Noisy(30).rows).measures["v_measure"] < 10


# --- files


def test_what_a_path_is(intents, tmp_path, pairs_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "Topics.tsv", labelled("all", 30))
    write(tmp_path / "a.train.csv.gz", labelled("x", 3)).unlink()
    rows = ["text,label", *(f'"{text}",{number % 2}' for number, text in enumerate(labelled("csv", 30).texts))]
    (tmp_path / "a.train.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    objects = [{"sentence": text, "label": number % 2} for number, text in enumerate(labelled("j", 20).texts)]
    (tmp_path / "a.test.jsonl").write_text("\n".join(map(json.dumps, objects)))
    found = load_tasks(f"demo-test, intents,Topics.tsv,a.train.csv.gz,{pairs_file}")
    assert list(found.pairs) == [str(pairs_file), "demo-test"]
    assert list(found.own) == ["intents", "Topics.tsv", "a.train.csv.gz"]
    folder, table, beside = found.own.values()
    assert isinstance(folder, FewShot) and len(folder.train) == 90 and folder.test.source == "intents/test.tsv"
    assert isinstance(table, Clustering) and table.data.classes == sorted(CLASSES)
    assert isinstance(beside, FewShot) and beside.train.classes == beside.test.classes == ["0", "1"]
    assert load_tasks("a.test.jsonl").own["a.test.jsonl"] == beside
    before = found.fingerprint()
    write(tmp_path / "Topics.tsv", labelled("other", 30))
    assert load_tasks(f"demo-test, intents,Topics.tsv,a.train.csv.gz,{pairs_file}").fingerprint() != before


def test_a_name_goes_before_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo-test").mkdir()
    assert list(load_tasks("demo-test").pairs) == ["demo-test"]


@pytest.mark.parametrize(
    ("files", "task", "message"),
    [
        ({}, "nowhere.csv", "nowhere.csv does not exist"),
        ({}, "some/folder", "some/folder does not exist"),
        ({}, "word", "no task 'word'; the known ones are .* and paths of your own data"),
        ({"d/train.tsv": "text\tlabel\n"}, "d", r"d is no task; give a table .*; a folder with train\.\*"),
        ({"t.tsv": "a\tb\n1\t2\n"}, "t.tsv", r"t\.tsv is no task"),
        ({"t.txt": "the cat\n"}, "./t.txt", "is no task"),
        ({"t.tsv": "text\tlabel\nthe cat\t\n"}, "t.tsv", "line 2, column 'label' is ''"),
        ({"t.jsonl": '{"text": "a", "label": 1.5}'}, "t.jsonl", "line 1, column 'label' is 1.5"),
        ({"t.tsv": "text\tlabel\n \ta\nb\tb\n"}, "t.tsv", "line 2, column 'text' is blank"),
        ({"t.tsv": "text\tlabel\nthe cat\ta\nthe dog\ta\n"}, "t.tsv", "one class 'a'"),
        ({"t.tsv": "words\tlabel\nthe cat\ta\nthe dog\tb\n"}, "t.tsv", "no column 'text'"),
        ({"p.csv": "sentence1,sentence2\na,b\n"}, "p.csv", "has no gold scores"),
        ({f"d/{name}": "text\tlabel\n" for name in ("train.tsv", "train.csv", "test.tsv")}, "d", "two files of one"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, files, task, message):
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        load_tasks(task)


def test_without_scikit_learn(intents, pairs_file, monkeypatch):
    monkeypatch.setattr(classification, "available", lambda: False)
    with pytest.raises(InputError, match=r"run pip install 'sparsecse\[transfer\]'"):
        load_tasks(str(intents))
    assert load_tasks(str(pairs_file)).pairs


# --- evaluate and the command line


def test_evaluate_embeds_each_sentence_once(intents, tmp_path):
    encoder = Noisy()
    topics = write(tmp_path / "topics.tsv", labelled("test", 60))
    result = evaluate(encoder, [str(intents), str(topics)])
    assert len(encoder.seen) == len(set(encoder.seen))
    data = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert (data["average"], data["transfer_average"]) == (None, None)
    own = data["tasks"][str(intents)]
    assert own["kind"] == "classification" and own["measures"].keys() == own["std"].keys()
    task = FewShot(load_labelled(intents / "train.tsv"), load_labelled(intents / "test.tsv"))
    assert own["measures"] == pytest.approx(task.measure(encoder.rows).measures)
    assert data["tasks"][str(topics)]["kind"] == "clustering"


def test_the_command_line(run, intents, tmp_path, sentences, pairs_file, capsys):
    assert main(["prune", "--sparsity", "0.5", "--workdir", str(run.path)]) == 0
    command = ["eval", "--tasks", f"{intents},{pairs_file}", "--workdir", str(run.path)]
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["tasks"][str(intents)]["measures"]["accuracy_8_shot"] > 33
    assert data["average"] == data["tasks"][str(pairs_file)]["spearman"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "On your own data, in percent" in out and f"{intents}: accuracy 8 shot" in out and "change" in out
    assert main(["pack", "--out", str(tmp_path / "packed"), "--workdir", str(run.path)]) == 0
    card = (tmp_path / "packed" / "README.md").read_text()
    assert "| pairs.tsv |" in card and str(tmp_path) not in card.split("Scores")[1].split("##")[0]
    assert main(["eval", str(tmp_path / "packed"), "--tasks", str(tmp_path / "none.csv")]) == 2
    assert "none.csv does not exist" in capsys.readouterr().err
