"""Text and tables as users have them: read right, or refused with one sentence, in bounded memory."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import pytest

from sparsecse import reading
from sparsecse.cli.app import main
from sparsecse.datasets import load_pairs, load_sentences, load_triplets
from sparsecse.datasets.corpora import open_corpus
from sparsecse.encoders import load_encoder
from sparsecse.errors import InputError
from sparsecse.vocabulary.corpus import Corpus

BOM = "\ufeff"
HEADER = "sentence1,sentence2,score\n"
LONG_LINE = gzip.compress(b"x" * 10_000_000, mtime=0)
BOMB = gzip.compress((b"word " * 200 + b"\n") * 10_000, mtime=0)


def pairs(path):
    found = load_pairs(path)
    return [found.first, found.second, found.scores]


def sentences(path):
    return load_sentences(path)


def corpus(path):
    return list(Corpus([path]))


def written(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" and data[:2] != b"\x1f\x8b" else data)
    return path


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.tsv", f"{BOM}sentence1\tsentence2\tscore\r\na, b\tc\t4.5\r\n"),
        ("p.csv", f'{BOM}{HEADER}"a, b",c,4.5\n'),
        ("p.csv", f'{BOM}"sentence1","sentence2","score"\r\n"a, b","c","4.5"\r\n'),
        ("p.csv", f"{BOM}sentence1;sentence2;score\r\na, b;c;4,5\r\n"),
        ("p.csv", 'sentence1;sentence2;score;"note, or not"\na, b;c;4.5;\n'),
        ("p.csv", "\nsentence1\tsentence2\tscore\na, b\tc\t4.5\n"),
        ("p.jsonl", f'{BOM}{{"sentence1": "a, b", "sentence2": "c", "score": 4.5}}\n'),
        ("p.json", f'{BOM}[{{"sentence1": "a, b", "sentence2": "c", "score": 4.5}}]'),
    ],
)
def test_tables(tmp_path, name, content, gz):
    assert pairs(written(tmp_path / f"{name}{gz}", content)) == [("a, b",), ("c",), (4.5,)]


@pytest.mark.parametrize("read", [sentences, corpus])
@pytest.mark.parametrize("name", ["s.txt", "s.txt.gz", "s"])
def test_texts(tmp_path, name, read):
    # Two files with marks put together; a stray carriage return and a tab in some lines are text.
    path = written(tmp_path / name, f"{BOM}one\r\ntwo\ta\n{BOM}three \r four\n{{five}}\nsix, seven\n")
    assert read(path) == ["one", "two\ta", "three \r four", "{five}", "six, seven"]


@pytest.mark.parametrize(
    ("read", "name", "content", "message"),
    [
        (pairs, "p.csv", "sentence1;sentence2,score\na;b,1\n", r"line 1 has ',' and ';' between or in the names"),
        (pairs, "p.csv", "sentence1;sentence2;score\na;b;4,5,1\n", "line 2, column 'score': the gold score is '4.5.1'"),
        (pairs, "p.csv", f"{HEADER}a,b,4,5\n", "line 2 has 4 columns where the header has 3"),
        (pairs, "p.csv", f"{HEADER}a,b,high\n", "line 2, column 'score': the gold score is 'high'"),
        (pairs, "p.csv", f"{HEADER}a,b,5.1\n", "line 2, column 'score': the gold score is '5.1'"),
        (pairs, "p.csv", f"{HEADER}a,b,1\n".replace("\n", "\r"), "ends its lines with carriage returns alone"),
        (pairs, "p.jsonl", '{"sentence1": "a", "sentence2": "b", "score": true}\n', "line 1, .*score is True"),
        (pairs, "p.jsonl", '\n{"sentence1": "a", "score": ' + "9" * 5000 + "}\n", "line 2 has a number of more than"),
        (
            pairs,
            "p.jsonl",
            '{"sentence1":"a","sentence2":"b","score":' + "9" * 999 + "}\n",
            r"score is 9+\.\.\.9+; give",
        ),
        (pairs, "p.jsonl", "[" * 100_000 + "\n", "line 1 has too many levels of brackets"),
        (pairs, "p.json", "[" * 100_000, "too many levels"),
        (pairs, "p.jsonl", '{"sentence1": "\\ud83d \\uDE00"}\n', "line 1 has half of a surrogate pair"),
        (pairs, "p.jsonl.gz", LONG_LINE, "line 1 is longer than 1 MiB"),
        (pairs, "p.json.gz", gzip.compress(bytes(2 << 20), mtime=0), "is larger than 1 MiB in one piece"),
        (pairs, "p.tsv.gz", BOMB, "expands to more than 100 times its size"),
        *(
            (read, *case)
            for read in (sentences, corpus)
            for case in (
                ("s.txt.gz", LONG_LINE, "line 1 is longer than 1 MiB"),
                ("s.txt.gz", BOMB, "expands to more than 100 times its size"),
                ("s.txt", "one\rtwo\rthree\r", "ends its lines with carriage returns alone"),
                ("pairs", "sentence1\tsentence2\tscore\na\tb\t1\n", r"no text but a table .* end in \.tsv"),
                ("s.txt", "1\tone sentence\n2\tanother\n", r"end in \.tsv"),
                ("s.txt", f"{HEADER}a,b,1\n", r"end in \.csv"),
                ("s.txt", '"sentence1";"sentence2"\na;b\n', r"end in \.csv"),
                ("s.txt.gz", '{"sentence": "a"}\n', r"end in \.jsonl"),
                ("s.txt", b"one\n\xff\xfe\n", "line 2 is not UTF-8"),
            )
        ),
    ],
)
def test_refused(tmp_path, monkeypatch, read, name, content, message):
    monkeypatch.setattr(reading, "MAX_WHOLE", 1 << 20)
    path = written(tmp_path / name, content)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message) as error:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 150 << 20
    finally:
        tracemalloc.stop()
    assert str(error.value).startswith(str(path)) and len(str(error.value)) < len(str(path)) + 300


def test_command_says_it_in_one_line(tmp_path, sentence_folder, capsys):
    path = written(tmp_path / "p.jsonl", "[" * 100_000 + "\n")
    arguments = [str(sentence_folder), "--data", str(path), "--workdir", str(tmp_path / "run")]
    assert main(["score", *arguments]) == 2
    assert capsys.readouterr().err.strip().splitlines() == [
        f"Error: {path}, line 1 has too many levels of brackets; mend or drop it."
    ]


def test_model_files_with_marks(tmp_path, sentence_folder):
    for path in sentence_folder.rglob("*"):
        copy = tmp_path / path.relative_to(sentence_folder)
        if path.is_file():
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(BOM.encode() * (path.suffix in (".json", ".txt")) + path.read_bytes())
    texts = ["the cat sat", "a dog"]
    assert (load_encoder(tmp_path).encode(texts) == load_encoder(sentence_folder).encode(texts)).all()


# --- data sets as `datasets` loads them


@pytest.fixture
def folder(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "owner" / "name"
    place.mkdir(parents=True)
    for split in ("train", "test"):
        written(place / f"{split}.csv", f"left,right,grade\nthe {split},b,4.5\nc,d,1\n")
    return place


def test_data_folder(folder, sentence_folder):
    columns = ("left", "right", "grade")
    found = load_pairs("owner/name@test", columns=columns)
    assert (found.name, found.split, found.first, found.scores) == ("name@test", "test", ("the test", "c"), (4.5, 1.0))
    assert load_pairs(folder, split="test", columns=columns).fingerprint() == found.fingerprint()
    assert load_sentences("owner/name@train", columns=("right",)) == ["b", "d"]
    assert load_triplets("owner/name@train", columns=("left", "right")).anchors == ("the train", "c")
    asked = ["--data", "owner/name", "--split", "test", "--columns", "left,right,grade", "--method", "magnitude"]
    assert main(["score", str(sentence_folder), *asked, "--workdir", str(folder.parent / "run")]) == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("owner/name", {}, "has several splits; choose one of train, test with `split`, or write owner/name@SPLIT"),
        ("owner/name@dev", {}, "has no split 'validation'"),
        ("owner/name@test", {"split": "train"}, "names one split and `split` train another"),
        ("owner/name@test", {}, r"owner/name \(test, folder\) has no column 'sentence1'; .* left, right, grade"),
        ("owner/name@test", {"columns": ("left", "grade")}, r"row 1, column 'grade' is 4\.5, not text"),
        (
            "owner/name@test",
            {"columns": ("left", "right", "left")},
            "row 1, column 'left': the gold score is 'the test'",
        ),
        ("owner", {}, "is a folder and no data set"),
        ("owner/other", {}, "no file, and a data set of the Hugging Face hub .*offline mode is on"),
        ("owner/pairs.tsv", {}, "is neither a file nor a known set nor a hub id"),
    ],
)
def test_bad_data_folder(folder, name, options, message):
    with pytest.raises(InputError, match=message):
        load_pairs(name, **options)


def test_scores_of_a_known_repository_are_brought_to_five(folder, monkeypatch):
    import datasets

    from sparsecse.datasets import hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_hub_answers", lambda: True)
    rows = [{"sentence1": "a", "sentence2": "b", "score": 0.76, "tags": ["x"]}]
    asked = []

    def load_dataset(repository, **which):
        asked.append((repository, which))
        return {"test": datasets.Dataset.from_list(rows)}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_pairs("sentence-transformers/stsb:en").scores == (3.8,)
    assert load_pairs("mteb/other").scores == (0.76,)
    assert asked == [("sentence-transformers/stsb", {"name": "en"}), ("mteb/other", {"name": None})]


def test_parquet_with_cells_that_python_cannot_have(tmp_path):
    import numpy
    import pyarrow
    from pyarrow import parquet

    ends = pyarrow.py_buffer(numpy.array([0, 2], dtype=numpy.int32))
    latin = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, ends, pyarrow.py_buffer(b"\xff\xfe")])
    never = pyarrow.array([2**40], pyarrow.timestamp("s"))
    path = tmp_path / "a.parquet"
    for columns, names, message in (
        ([latin], ["sentence"], r"a\.parquet, column 'sentence' cannot be read \(.*; mend or drop it"),
        ([["a"], never], ["sentence", "when"], "column 'when' cannot be read"),
        ([["a"], ["b"]], ["sentence", "sentence"], "names column 'sentence' twice; rename one"),
    ):
        parquet.write_table(pyarrow.table([pyarrow.array(one) for one in columns], names=names), path)
        with pytest.raises(InputError, match=message):
            load_sentences(path)
        if "when" not in names:  # which is not read there
            with pytest.raises(InputError, match=message):
                list(open_corpus(path).rows)
