"""Every way in which pairs, triplets and sentences come in, and what bad input says."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from sparsecse.datasets import (
    PAIR_SETS,
    PairSet,
    SetNotFoundError,
    hub,
    load_pairs,
    load_retrieval,
    load_sentences,
    load_triplets,
)
from sparsecse.errors import InputError

SENTEVAL = Path(__file__).parents[2] / "shared" / "data" / "senteval"
needs_senteval = pytest.mark.skipif(not SENTEVAL.is_dir(), reason="no SentEval data beside the repository")

ROWS = [
    {"sentence1": 'He said "no".', "sentence2": "He, of course, refused.", "score": 4.2},
    {"sentence1": "A cat sleeps.", "sentence2": "The market fell.", "score": 0.0},
    {"sentence1": "A cat sleeps.", "sentence2": "A cat naps.", "score": 5.0},
]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No data folder from outside, an empty datasets cache, and no hub."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.delenv("SPARSECSE_DATA_DIR", raising=False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def write_table(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_sts_year(folder: Path, subsets: dict[str, list[tuple[str, str]]]) -> None:
    folder.mkdir(parents=True)
    for name, lines in subsets.items():
        (folder / f"STS.input.{name}.txt").write_text("".join(f"{text}\n" for text, _ in lines), encoding="utf-8")
        (folder / f"STS.gs.{name}.txt").write_text("".join(f"{gold}\n" for _, gold in lines), encoding="utf-8")


# --- named sets in a SentEval folder


@needs_senteval
@pytest.mark.parametrize(
    ("name", "split", "pairs"),
    [
        ("sts12", None, 3108),
        ("STS-14", None, 3750),
        ("sts15", "test", 3000),
        ("stsb", "train", 5749),
        ("stsbenchmark", None, 1500),
        ("STS-B", "test", 1379),
        ("sickr", "train", 4500),
        ("sick-r", None, 500),
        ("SICK", "trial", 500),
    ],
)
def test_official_sizes(name, split, pairs):
    found = load_pairs(name, split=split, data_dir=SENTEVAL)
    assert len(found) == pairs
    assert found == load_pairs(name, split=split, data_dir=SENTEVAL / "downstream")


@needs_senteval
def test_subsets_and_environment(monkeypatch):
    monkeypatch.setenv("SPARSECSE_DATA_DIR", str(SENTEVAL))
    found = load_pairs("sts15")
    assert found.subsets is not None
    assert found.subsets.count("answers-forums") == 375
    assert found.subsets.count("images") == 750
    assert found.source.endswith("STS15-en-test")


def test_sts_year_quirks(tmp_path):
    # STS16 adds provenance columns; U+2028 and U+0085 are no line ends; a blank gold score leaves its pair out.
    write_sts_year(
        tmp_path / "STS" / "STS16-en-test",
        {
            "headlines": [("a\u2028b  c\td\thttp://x\ty", "4.00"), ("e\tf", ""), ("g\x85h\ti", "0")],
            "plagiarism": [("j\tk\r", "2.5\r")],
            "answer-answer": [("l\tm", "1")],
            "postediting": [("n\to", "1")],
            "question-question": [("p\tq", "1")],
        },
    )
    found = load_pairs("sts16", data_dir=tmp_path)
    assert found.first == ("l", "a b c", "g h", "j", "n", "p")
    assert found.second[1:4] == ("d", "i", "k")
    assert found.scores == (1, 4, 0, 2.5, 1, 1)
    assert found.subsets == (
        "answer-answer",
        "headlines",
        "headlines",
        "plagiarism",
        "postediting",
        "question-question",
    )


def test_incomplete_sts_year_warns_and_unofficial_subset_is_ignored(tmp_path, caplog):
    write_sts_year(tmp_path / "STS" / "STS13-en-test", {"FNWN": [("a\tb", "1")], "SMT": [("c\td", "1")]})
    assert len(load_pairs("sts13", data_dir=tmp_path)) == 1
    assert "lacks headlines, OnWN" in caplog.text


def test_stsb_has_no_quoting_and_sick_test_reads(tmp_path):
    (tmp_path / "downstream/STS/STSBenchmark").mkdir(parents=True)
    (tmp_path / "downstream/SICK").mkdir()
    (tmp_path / "downstream/STS/STSBenchmark/sts-test.csv").write_text(
        'news\tf\t2015\t1\t3.5\t"Quoted start\tplain\tlicence\turl\nnews\tf\t2015\t2\t1\tc\t"d"\n', encoding="utf-8"
    )
    (tmp_path / "downstream/SICK/SICK_test_annotated.txt").write_text(
        "\ufeffpair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n6\tA b\tC d\t3.3\tNEUTRAL\n",
        encoding="utf-8",
    )
    stsb = load_pairs("stsb", split="test", data_dir=tmp_path)
    assert (stsb.first, stsb.second) == (('"Quoted start', "c"), ("plain", '"d"'))
    assert load_pairs("sickr", split="test", data_dir=tmp_path).scores == (3.3,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\n", "line 1 has 2 columns"),
        ("n\tf\t2015\t1\t6.5\ta\tb\n", "line 1, column 'score': the gold score is '6.5'"),
        ("n\tf\t2015\t1\tnan\ta\tb\n", "the gold score is 'nan'"),
        ("n\tf\t2015\t1\t1\ta\t \n", "line 1, column 'sentence2' is blank"),
        ("", "holds no graded pairs"),
    ],
)
def test_broken_stsb(tmp_path, content, message):
    (tmp_path / "STS/STSBenchmark").mkdir(parents=True)
    (tmp_path / "STS/STSBenchmark/sts-dev.csv").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"sts-dev\.csv") as error:
        load_pairs("stsb", data_dir=tmp_path)
    assert message in str(error.value)


def test_sts_year_line_counts_differ(tmp_path):
    write_sts_year(tmp_path / "STS/STS13-en-test", {"FNWN": [("a\tb", "1"), ("c\td", "2")]})
    (tmp_path / "STS/STS13-en-test/STS.gs.FNWN.txt").write_text("1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"has 2 lines but STS\.gs\.FNWN\.txt has 1"):
        load_pairs("sts13", data_dir=tmp_path)


# --- named sets through `datasets`


def cache_on_disk(cache: Path, repository: str, split: str, rows: list[dict]) -> None:
    """Lay a set into the datasets cache with the builder that loading it from the hub would use.

    Under a repository's name that builder takes only files on the hub, so it works elsewhere and its folder (name,
    configuration, version, hash) is moved to where the hub's would be.
    """
    from datasets.packaged_modules.parquet.parquet import Parquet

    name = repository.split("/")[-1]
    source = write_table(cache.parent / f"{name}-{split}.parquet", rows)
    elsewhere = cache.parent / "elsewhere"
    builder = Parquet(cache_dir=str(elsewhere), dataset_name=name, hash="0123abcd", data_files={split: [str(source)]})
    builder.download_and_prepare()
    (configuration,) = (elsewhere / name).iterdir()
    (cache / repository.replace("/", "___")).mkdir(parents=True)
    configuration.rename(cache / repository.replace("/", "___") / "default")


def test_datasets_cache(tmp_path):
    cache_on_disk(tmp_path / "cache", "mteb/sts13-sts", "test", ROWS)
    cache_on_disk(
        tmp_path / "cache",
        "sentence-transformers/stsb",
        "validation",
        [{**row, "score": row["score"] / 5} for row in ROWS],
    )
    sts13 = load_pairs("sts13", data_dir=tmp_path)
    assert sts13.first == tuple(row["sentence1"] for row in ROWS)
    assert "mteb/sts13-sts (test, local datasets cache)" in sts13.source
    assert load_pairs("stsb").scores == (4.2, 0, 5)
    with pytest.raises(SetNotFoundError):  # this split is not in the cache
        load_pairs("stsb", split="test")


def test_hub(monkeypatch):
    import datasets

    asked = []

    def load_dataset(repository, split, revision):
        asked.append((repository, split, revision))
        rows = [{"sentence_A": "a", "sentence_B": "b", "relatedness_score": 4.5}]
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_hub_answers", lambda: True)
    assert load_pairs("sickr").scores == (4.5,)
    assert asked == [("RobZamp/sick", "validation", "refs/convert/parquet")]

    monkeypatch.setattr(hub, "_hub_answers", lambda: False)
    with pytest.raises(SetNotFoundError, match="the hub does not answer"):
        load_pairs("sickr")


def test_not_found_names_three_ways(tmp_path):
    with pytest.raises(SetNotFoundError) as error:
        load_pairs("sts16", data_dir=tmp_path)
    for way in ("`data_dir`", str(tmp_path / "STS/STS16-en-test"), "datasets cache", "mteb/sts16-sts", "hub"):
        assert way in str(error.value)
    with pytest.raises(InputError, match="does not exist"):
        load_pairs("sts16", data_dir=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sts12", {"split": "dev"}, "has no split 'dev'; choose one of test"),
        ("stsb", {"columns": ("a", "b")}, "which has its own"),
        ("nosuchset", {}, "neither a file nor a known set"),
        (".", {}, "is a folder"),
    ],
)
def test_bad_names(name, options, message):
    with pytest.raises(InputError, match=message):
        load_pairs(name, **options)


# --- pair files


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl", ".json", ".parquet"])
def test_pair_files(tmp_path, suffix):
    found = load_pairs(write_table(tmp_path / f"pairs{suffix}", ROWS))
    assert found.first == tuple(row["sentence1"] for row in ROWS)
    assert found.second == tuple(row["sentence2"] for row in ROWS)
    assert found.scores == (4.2, 0, 5)
    assert found.sentences() == [
        ROWS[0]["sentence1"],
        ROWS[0]["sentence2"],
        *["A cat sleeps.", "The market fell.", "A cat naps."],
    ]
    assert found.positives() == [(0, 1), (2, 4)]


def test_fingerprint_is_of_the_contents(tmp_path):
    one, two = (load_pairs(write_table(tmp_path / name, ROWS)) for name in ("x.tsv", "y.parquet"))
    assert one.fingerprint() == two.fingerprint()
    assert one.fingerprint() != load_pairs(write_table(tmp_path / "z.tsv", ROWS[1:])).fingerprint()


def test_named_columns_compression_and_no_score(tmp_path):
    path = tmp_path / "p.csv.gz"
    path.write_bytes(gzip.compress(b"id,left,right,grade\r\n1,a,b,3\r\n"))
    assert load_pairs(path, columns=("left", "right", "grade")).scores == (3,)
    bare = load_pairs(path, columns=("left", "right"))
    assert bare.scores is None
    with pytest.raises(InputError, match="no gold scores"):
        bare.positives()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.tsv", "a\tb\tscore\nx\ty\t1\n", "has no column 'sentence1'; the columns present are a, b, score"),
        ("p.tsv", "sentence1\tsentence2\tscore\nx\ty\t1\nx\ty\t7\n", "line 3, column 'score': the gold score is '7'"),
        ("p.tsv", "sentence1\tsentence2\tscore\nx\ty\t0_4\n", "line 2, column 'score': the gold score is '0_4'"),
        ("p.tsv", "sentence1\tsentence2\tscore\nx\ty\tNaN\n", "line 2, column 'score': the gold score is 'NaN'"),
        ("p.tsv", "sentence1\tsentence2\tscore\nx\ty\t\n", "line 2, column 'score': the gold score is ''"),
        ("p.tsv", "sentence1\tsentence2\n \ty\n", "line 2, column 'sentence1' is blank"),
        ("p.tsv", "sentence1\tsentence2\nx\n", "line 2 has 1 columns where the header has 2"),
        ("p.tsv", "sentence1\tsentence1\nx\ty\n", "names column 'sentence1' twice"),
        ("p.tsv", "sentence1\tsentence2\tscore\n", "has no rows"),
        ("p.tsv", "", "is empty"),
        ("p.tsv", b"sentence1\tsentence2\n\xe9\ty\n", "is not UTF-8"),
        ("p.csv", 'sentence1,sentence2\n"x,y\n', "is not valid CSV"),
        ("p.jsonl", '{"sentence1": "a"\n', "line 1 is not valid JSON"),
        ("p.jsonl", "[1]\n", "line 1 is no JSON object"),
        ("p.jsonl", '{"sentence1": "a", "sentence2": 3}\n', "column 'sentence2' is 3, not text"),
        ("p.jsonl", '{"sentence1": "a", "sentence2": "b", "score": NaN}\n', "the gold score is nan"),
        ("p.json", '{"sentence1": "a"}', "holds no list"),
        ("p.parquet", "PAR1 and no more", "is not a readable Parquet file"),
        ("p.csv.gz", b"\x1f\x8b\x08 cut", "cannot be read"),
        ("p.txt", "a\n", "is not a table of pairs"),
    ],
)
def test_bad_pair_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as error:
        load_pairs(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_bad_options_for_files(tmp_path):
    path = write_table(tmp_path / "p.tsv", ROWS)
    with pytest.raises(InputError, match="is read whole"):
        load_pairs(path, split="dev")
    with pytest.raises(InputError, match="1 columns were named"):
        load_pairs(path, columns=("sentence1",))
    with pytest.raises(InputError, match="has no column 'grade'"):
        load_pairs(path, columns=("sentence1", "sentence2", "grade"))
    with pytest.raises(InputError, match="give a number from 0 to 5"):
        load_pairs(path).positives(minimum=50)
    with pytest.raises(InputError, match="the highest is 1"):
        PairSet("x", "all", ("a",), ("b",), (1.0,), None, "x").positives()


# --- triplets


@pytest.mark.parametrize(
    "header", [("anchor", "positive", "negative"), ("sent0", "sent1", "hard_neg"), ("x", "y", "z")]
)
def test_triplets(tmp_path, header):
    path = write_table(tmp_path / "t.csv", [dict(zip(header, ("a", "b, c", "d"), strict=True))])
    columns = header if header[0] == "x" else None
    found = load_triplets(path, columns=columns)
    assert (found.anchors, found.positives, found.negatives) == (("a",), ("b, c",), ("d",))
    assert load_triplets(path, columns=header[:2]).negatives is None
    assert len(found.fingerprint()) == 64


def test_triplets_without_negatives_and_from_pairs(tmp_path):
    assert load_triplets(write_table(tmp_path / "t.tsv", [{"anchor": "a", "positive": "b"}])).negatives is None
    found = load_triplets(write_table(tmp_path / "p.jsonl", ROWS))
    assert (found.anchors, found.positives) == (
        (ROWS[0]["sentence1"], "A cat sleeps."),
        (ROWS[0]["sentence2"], "A cat naps."),
    )
    assert len(load_triplets(tmp_path / "p.jsonl", minimum=4.5)) == 1


def test_bad_triplets(tmp_path):
    path = write_table(tmp_path / "t.tsv", [{"left": "a", "right": "b"}])
    with pytest.raises(InputError, match="the columns present are left, right"):
        load_triplets(path)
    with pytest.raises(InputError, match="1 columns were named"):
        load_triplets(path, columns=("left",))
    with pytest.raises(InputError, match="has no column 'wrong'"):
        load_triplets(path, columns=("left", "wrong"))


# --- sentences


@pytest.mark.parametrize("name", ["s.txt", "s.txt.gz", "s"])
def test_text_sentences(tmp_path, name):
    data = "\ufeff one \r\n\ntwo\none\n  \nthree\u2028same line\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert load_sentences(tmp_path / name) == ["one", "two", "three\u2028same line"]


def test_table_sentences(tmp_path):
    rows = [{"id": 1, "text": "a"}, {"id": 2, "text": None}, {"id": 3, "text": "a"}]
    assert load_sentences(write_table(tmp_path / "s.parquet", rows)) == ["a"]
    assert load_sentences(write_table(tmp_path / "s.jsonl", [{"sentence": "b", "text": "c"}])) == ["b"]
    assert load_sentences(tmp_path / "s.jsonl", columns=("text", "sentence")) == ["c", "b"]
    pairs = write_table(tmp_path / "p.csv", ROWS)
    assert load_sentences(pairs) == load_pairs(pairs).sentences()
    with pytest.raises(InputError, match="row 1, column 'id' is 1, not text"):
        load_sentences(tmp_path / "s.parquet", columns=("id",))


def test_bad_sentences(tmp_path):
    (tmp_path / "s.txt").write_text("\n \n", encoding="utf-8")
    with pytest.raises(InputError, match="holds no sentences"):
        load_sentences(tmp_path / "s.txt")
    with pytest.raises(InputError, match="text file"):
        load_sentences(tmp_path / "s.txt", columns=("text",))
    with pytest.raises(InputError, match="is read whole"):
        load_sentences(tmp_path / "s.txt", split="dev")
    with pytest.raises(InputError, match="has no column 'sentence'; the columns present are left"):
        load_sentences(write_table(tmp_path / "s.tsv", [{"left": "a"}]))
    with pytest.raises(InputError, match="neither a file nor a known set"):
        load_sentences(tmp_path / "nowhere.txt")


# --- the built-in demo


def test_demo_pairs():
    dev, test = (load_pairs("demo", split=split) for split in PAIR_SETS["demo"])
    assert load_pairs("demo") == dev
    scores = [*dev.scores, *test.scores]
    assert len(scores) >= 500
    for part in (dev, test):
        assert {round(score) for score in part.scores} == {0, 1, 2, 3, 4, 5}
        assert part.positives()
    pairs = [*zip(dev.first, dev.second, strict=True), *zip(test.first, test.second, strict=True)]
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)


def test_demo_sentences():
    raw = (Path(__file__).parents[1] / "sparsecse/datasets/demo/sentences.txt").read_text(encoding="utf-8").splitlines()
    sentences = load_sentences("demo")
    assert len(sentences) >= 2000
    assert sentences == [line.strip() for line in raw]  # no duplicates, no blank lines
    assert load_sentences("demo", split="test") == load_pairs("demo", split="test").sentences()
    lengths = [len(sentence.split()) for sentence in sentences]
    assert sum(length >= 30 for length in lengths) >= 150 and sum(length <= 12 for length in lengths) >= 500


def test_demo_retrieval():
    tasks = {split: load_retrieval("demo", split=split) for split in ("test", "dev")}
    assert [task.name for task in tasks.values()] == ["demo-retrieval", "demo-retrieval-dev"]
    documents = tasks["test"].documents
    assert tasks["dev"].documents == documents and 400 <= len(documents) <= 450
    assert len(set(documents.values())) == len(documents)
    assert all(30 <= len(text.split()) <= 80 and text == " ".join(text.split()) for text in documents.values())
    for split, least in {"test": 150, "dev": 50}.items():
        task = tasks[split]
        assert len(task) >= least and task.source == f"the built-in demo ({split})"
        assert task.unknown_queries == task.unknown_documents == task.irrelevant_queries == task.empty_documents == 0
        assert all(1 <= len(grades) <= 3 and set(grades.values()) == {1} for grades in task.judgements.values())
    assert not tasks["test"].queries.keys() & tasks["dev"].queries.keys()
    queries = [query for task in tasks.values() for query in task.queries.values()]
    assert len(set(queries)) == len(queries) and not set(queries) & set(load_sentences("demo"))


def test_the_demo_trains_on_no_passage_it_searches():
    """Not even on seven words in a row of one."""

    def runs(texts):
        split = (text.lower().split() for text in texts)
        return {tuple(words[start : start + 7]) for words in split for start in range(len(words) - 6)}

    assert not runs(load_retrieval("demo").documents.values()) & runs(load_sentences("demo"))
