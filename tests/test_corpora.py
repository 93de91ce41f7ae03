"""Embedding a corpus: rows in order, every format, resumed to the same bytes, refused where something changed."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import signal
import sys
import threading

import numpy as np
import pytest
from conftest import WORDS

import sparsecse
from sparsecse import disk, files
from sparsecse.cli import main
from sparsecse.corpora import blocks
from sparsecse.corpora.shards import read_ids, stored
from sparsecse.datasets.corpora import open_corpus
from sparsecse.encoders import load_encoder
from sparsecse.errors import InputError
from sparsecse.runtime import Runtime

SETTINGS = {"precision": "float32", "threads": 1, "shard_rows": 5}


@pytest.fixture(scope="module")
def model(sentence_folder):
    return load_encoder(sentence_folder)


@pytest.fixture(scope="module")
def texts(sentences):
    """12 rows: three shards, a blank text, and some twice in a shard."""
    return [*sentences, "", sentences[1], sentences[2], sentences[1]]


@pytest.fixture(scope="module")
def expected(model, texts):
    return Runtime(model, "float32", 1).encode(texts)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["c.txt", "c.txt.gz", "c.tsv", "c.csv", "c.jsonl", "c.parquet", "c.json", "part-0"])
def test_rows_are_in_order_whatever_holds_them(tmp_path, model, texts, expected, name):
    import pyarrow
    from pyarrow import parquet

    path, ids = tmp_path / name, [f"d{row}" for row in range(len(texts))]
    is_table = ".txt" not in name
    rows = [{"id": one, "text": text} for one, text in zip(ids, texts, strict=True)]
    if name == "c.parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif name == "c.json":
        path.write_text(json.dumps(rows))
    elif name in ("c.jsonl", "part-0"):
        del rows[8]["text"]  # a null is an empty text
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif is_table:
        separator = "\t" if name == "c.tsv" else ","
        quoted = [text if name == "c.tsv" else f'"{text}"' for text in texts]
        path.write_text(f"id{separator}text\n" + "".join(map("{}{}{}\n".format, ids, [separator] * 12, quoted)))
    else:
        data = "".join(f"{text}\n" for text in texts).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    given = {"input_format": "jsonl"} if name == "part-0" else {}
    out = tmp_path / "out"
    done = sparsecse.encode_corpus(model, path, out, **SETTINGS, **given, id_column="id" if is_table else None)
    assert done.encoded == done.manifest["rows"] == 12 and done.manifest["complete"]
    assert [shard["rows"] for shard in done.manifest["shards"]] == [5, 5, 2]
    assert [shard["blank"] for shard in done.manifest["shards"]] == [0, 1, 0]
    np.testing.assert_allclose(sparsecse.load_embeddings(out), expected, atol=1e-6)
    if is_table:
        assert [one for shard in range(3) for one in read_ids(out, shard, "npy")] == ids


@pytest.mark.parametrize("storage", ["npy", "parquet", "arrow"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary", "ubinary"])
def test_every_format_holds_every_dtype(tmp_path, model, texts, expected, storage, dtype):
    from datasets import Dataset

    table = tmp_path / "c.jsonl"
    table.write_text("".join(json.dumps({"_id": row, "text": text}) + "\n" for row, text in enumerate(texts)))
    out = tmp_path / "out"
    sparsecse.encode_corpus(model, table, out, **SETTINGS, format=storage, dtype=dtype, id_column="_id")
    found = sparsecse.load_embeddings(out)
    if dtype.startswith("float"):
        wanted = expected.astype(dtype)
    else:
        quantize = pytest.importorskip("sentence_transformers.util.quantization").quantize_embeddings
        ranges = np.load(out / "ranges.npy") if dtype == "int8" else None
        if ranges is not None:
            np.testing.assert_allclose(ranges, [expected[:5].min(0), expected[:5].max(0)], atol=1e-6)
        wanted = quantize(expected, dtype, ranges=ranges)
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    # Rounding may fall on either side of a step; a bit of a value near 0 may too, but these have none.
    np.testing.assert_allclose(found.astype(np.float32), wanted.astype(np.float32), atol=1 if dtype == "int8" else 1e-3)
    assert [one for shard in range(3) for one in read_ids(out, shard, storage)] == [str(row) for row in range(12)]
    if storage == "arrow":
        rows = Dataset.from_file(str(out / "vectors-00001.arrow"))
        assert rows["id"][:] == ["5", "6", "7", "8", "9"] and rows.column_names == ["id", "embedding"]


def test_a_call_that_ended_anywhere_is_made_again_to_the_same_bytes(tmp_path, monkeypatch, model, texts):
    table = tmp_path / "c.csv"
    table.write_text("id,text\n" + "".join(f'{row},"{text}"\n' for row, text in enumerate(texts)))
    given = {**SETTINGS, "shard_rows": 8, "dtype": "int8", "id_column": "id"}
    sparsecse.encode_corpus(model, table, tmp_path / "whole", **given)
    whole = contents(tmp_path / "whole")
    assert set(whole) == {
        *("manifest.json", "ranges.npy", "vectors-00000.npy", "vectors-00001.npy", "ids-00000.jsonl", "ids-00001.jsonl")
    }
    calls = 0

    def stop(operation, *arguments):
        nonlocal calls
        calls += operation is disk._sync
        if calls == last:
            raise KeyboardInterrupt
        return operation(*arguments)

    monkeypatch.setattr(disk, "perform", stop)
    # Every file is written out before it takes its name and its folder after, so that these are all states there are.
    for last in range(1, 100):
        calls, out = 0, tmp_path / f"out-{last}"
        try:
            sparsecse.encode_corpus(model, table, out, **given)
        except KeyboardInterrupt:
            (out / ".vectors-00001.npy.0123abcd.tmp").write_bytes(b"half")
            calls = 100
        else:
            break
        sparsecse.encode_corpus(model, table, out, **given)
        assert contents(out) == whole, last
    assert calls < last == 19


def test_what_is_whole_is_not_computed_again_and_what_is_damaged_is(tmp_path, monkeypatch, model, texts):
    out, computed = tmp_path / "out", []
    sparsecse.encode_corpus(model, texts, out, **SETTINGS)
    before, encode_ids = contents(out), Runtime.encode_ids

    def count(self, token_ids, **options):
        computed.append(len(token_ids))
        return encode_ids(self, token_ids, **options)

    monkeypatch.setattr(Runtime, "encode_ids", count)
    assert sparsecse.encode_corpus(model, texts, out, **SETTINGS).encoded == 0 and not computed
    (out / "vectors-00000.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"vectors-00000\.npy is missing or damaged"):
        sparsecse.load_embeddings(out)
    assert sparsecse.encode_corpus(model, texts, out, **SETTINGS).encoded == 5
    assert computed == [5] and contents(out) == before
    # Texts that occur again in a block are computed once.
    sparsecse.encode_corpus(model, ["the cat", "a dog", "the cat", "the cat"], tmp_path / "twice", **SETTINGS)
    assert computed == [5, 2]
    vectors = sparsecse.load_embeddings(tmp_path / "twice")
    assert (vectors[0] == vectors[2]).all() and (vectors[0] != vectors[1]).any()


def test_another_input_model_or_setting_is_refused(tmp_path, checkpoints, model, texts):
    out = tmp_path / "out"
    sparsecse.encode_corpus(model, texts, out, **SETTINGS)
    before = contents(out)
    other = load_encoder(checkpoints["roberta"], pooling="mean", normalize=True)
    for changed, given, message in (
        ([*texts[:6], "the cat", *texts[7:]], {}, "differs in rows 6 to 10; restore it"),
        (texts[:10], {}, "it has no rows after 10"),
        ([*texts, *texts], {}, "differs in rows 11 to 12"),
        (texts, {"dtype": "float16"}, "was begun with `dtype` float32, and now it is float16; give another folder"),
        (texts, {"prompt": "the "}, "was begun with `prompt` , and now it is the "),
        (texts, {"model": other}, "holds vectors of another model"),
        (texts, {"model": model.truncated(8)}, "holds vectors of another model"),
    ):
        with pytest.raises(InputError, match=message):
            sparsecse.encode_corpus(given.pop("model", model), changed, out, **{**SETTINGS, **given})
        assert contents(out) == before
    sparsecse.encode_corpus(model, texts[:10], tmp_path / "even", **SETTINGS)
    with pytest.raises(InputError, match="it has more than 10 rows"):
        sparsecse.encode_corpus(model, texts, tmp_path / "even", **SETTINGS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "vectors-00000.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"mine has files and no manifest\.json of embeddings \(vectors-00000\.npy\)"):
        sparsecse.encode_corpus(model, texts, tmp_path / "mine", **SETTINGS)
    with files.held(out), pytest.raises(InputError, match="is being written by another process"):
        sparsecse.encode_corpus(model, texts, out, **SETTINGS)


def test_bad_corpora_are_refused_with_their_place(tmp_path, model):
    (tmp_path / "c.jsonl").write_text('{"text": "a", "n": 1}\n{"text": 5, "n": null}\n')
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty.txt").write_text("")
    for source, given, message in (
        ("c.jsonl", {}, r"c\.jsonl, line 2, column 'text' is 5, not text"),
        ("c.jsonl", {"column": "body"}, "has no column 'body'; the columns present are text, n"),
        ("t.csv", {}, "has several columns and none is called sentence or text; name the one"),
        ("empty.txt", {}, r"empty\.txt has no rows"),
        ("empty.txt", {"column": "text"}, "which has none"),
        ("nothing.txt", {}, "neither a file nor a hub id"),
        ("empty.txt", {"format": "hdf5"}, "`format` 'hdf5' is unknown; choose one of npy, parquet, arrow"),
        ("empty.txt", {"prompt": "a", "prompt_name": "b"}, "give one of them"),
    ):
        with pytest.raises(InputError, match=message):
            sparsecse.encode_corpus(model, tmp_path / source, tmp_path / "out", **SETTINGS, **given)
    for text, message in ((None, "Text 1 is None, not a string"), ("\ud800", "Text 1 .* has half of a surrogate pair")):
        with pytest.raises(InputError, match=message):
            sparsecse.encode_corpus(model, ["a", text], tmp_path / "other", **SETTINGS)
    with pytest.raises(InputError, match="is unfinished"):
        sparsecse.load_embeddings(tmp_path / "other")


@pytest.mark.parametrize("name", ["c.tsv", "c.csv", "c.txt"])
def test_a_blank_line_is_a_row_where_there_is_one_column(tmp_path, name):
    (tmp_path / name).write_bytes(b"" if name == "c.txt" else b"\r\ntext\r\n")
    with (tmp_path / name).open("ab") as file:
        file.write(b"the cat\r\n\r\na dog\r\n")
    assert [text for text, _ in open_corpus(tmp_path / name).rows] == ["the cat", "", "a dog"]


def test_no_more_is_read_than_is_computed_next(tmp_path, monkeypatch, model):
    monkeypatch.setattr(blocks, "ROWS", 2)
    read, most = 0, 0

    def texts():
        nonlocal read
        while read < 60:
            read += 1
            yield "the cat"

    def progress(label):
        shard = int(label.split()[1]) - 1

        def report(done, total):
            nonlocal most
            most = max(most, read - (shard * 20 + done))

        return report

    sparsecse.encode_corpus(model, texts(), tmp_path / "out", **{**SETTINGS, "shard_rows": 20}, progress=progress)
    assert read == 60 and most <= 4  # the next block and the one after it


def test_what_is_prepared_ahead_is_not_waited_for_at_the_end():
    release = threading.Event()

    def items():
        yield 1
        release.wait(60)  # as standard input does
        yield 2

    prepared = blocks.ahead(items())
    assert next(prepared) == 1
    prepared.close()
    assert not release.is_set() and list(blocks.ahead(iter(range(5)))) == [0, 1, 2, 3, 4]
    release.set()


def test_a_folder_in_the_layout_of_a_hub_repository(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text("id,text\n3,the cat\n5,\n")
    (tmp_path / "set" / "test.csv").write_text("id,text\n9,a dog\n")
    corpus = open_corpus(f"{tmp_path / 'set'}@train", id_column="id")
    assert corpus.count == 2 and list(corpus.rows) == [("the cat", "3"), ("", "5")]
    with pytest.raises(InputError, match="has several splits; choose one of train, test"):
        open_corpus(tmp_path / "set")


def test_the_command_reads_standard_input(tmp_path, capsys, sentence_folder, texts, expected):
    (tmp_path / "lines").write_text("".join(f"{text}\n" for text in texts))
    out, own = tmp_path / "out", os.dup(0)
    command = [
        "encode",
        "-",
        str(out),
        "--model",
        str(sentence_folder),
        "--precision",
        "float32",
        "--truncate-dim",
        "8",
    ]
    try:
        for arguments, code in (([], 0), ([], 0), (["--format", "arrow"], 2)):
            with (tmp_path / "lines").open() as stream:
                os.dup2(stream.fileno(), 0)
            assert main([*command, "--json", "--shard-rows", "5", *arguments]) == code
    finally:
        os.dup2(own, 0)
        os.close(own)
    printed = capsys.readouterr()
    first, second = printed.out.split("}\n{")
    assert json.loads(first + "}")["encoded"] == 12 and json.loads("{" + second)["encoded"] == 0
    assert "was begun with --format npy, and now it is arrow" in printed.err
    np.testing.assert_allclose(sparsecse.load_embeddings(out), expected[:, :8], atol=1e-6)


@pytest.mark.slow
def test_processes_compute_what_one_does_and_one_that_dies_ends_the_call(tmp_path, model, texts):
    sparsecse.encode_corpus(model, texts * 5, tmp_path / "alone", **SETTINGS)

    def kill(label):
        children = multiprocessing.active_children() if label.startswith("Shard 3") else []
        return lambda done, total: [os.kill(child.pid, signal.SIGKILL) for child in children]

    with pytest.raises(InputError, match="One of 2 processes ended unasked; run the command again"):
        sparsecse.encode_corpus(
            model, texts * 5, tmp_path / "out", **{**SETTINGS, "threads": 2, "processes": 2}, progress=kill
        )
    assert 5 <= sparsecse.encode_corpus(model, texts * 5, tmp_path / "out", **SETTINGS).encoded < 60
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def searched(out, sink, dtype):
    """The nearest row of each row, [rows]."""
    queries = sparsecse.load_embeddings(out)
    if dtype == "binary":
        queries = queries.view(np.uint8) + np.uint8(128)
    if sink == "faiss":
        import faiss

        read = faiss.read_index_binary if dtype == "ubinary" else faiss.read_index
        if dtype == "float16":
            queries = queries.astype(np.float32)
        return read(str(out / "index.faiss")).search(queries, 1)[1][:, 0].tolist()
    if sink == "usearch":
        from usearch.index import Index

        index = Index.restore(str(out / "index.usearch"))
        return [int(index.search(query, 1).keys[0]) for query in queries]
    import lancedb

    table = lancedb.connect(str(out / "index.lancedb")).open_table("vectors")
    found = [table.search(query).metric("dot").limit(1).to_list()[0] for query in queries]
    assert all(one["id"] == f"d{one['row']}" for one in found)
    return [one["row"] for one in found]


@pytest.mark.parametrize(
    "sink,dtype",
    [
        ("faiss", "float32"),
        ("faiss", "float16"),
        ("faiss", "ubinary"),
        ("usearch", "float16"),
        ("usearch", "binary"),
        ("lancedb", "float32"),
    ],
)
def test_an_index_has_the_rows_of_the_shards(tmp_path, monkeypatch, model, texts, sink, dtype):
    pytest.importorskip(sink)
    table, out, other = tmp_path / "c.jsonl", tmp_path / "out", tmp_path / "other"
    table.write_text("".join(json.dumps({"_id": f"d{row}", "text": text}) + "\n" for row, text in enumerate(texts)))
    given = {**SETTINGS, "dtype": dtype, "id_column": "_id"}
    sparsecse.encode_corpus(model, table, out, **given)
    rename = disk.rename
    with monkeypatch.context() as patch:  # as if killed when the manifest had the index and the folder not
        patch.setattr(disk, "rename", lambda a, b: 1 / 0 if b.name.startswith("index.") else rename(a, b))
        with pytest.raises(ZeroDivisionError):
            sparsecse.encode_corpus(model, table, out, **given, sink=sink)
    sparsecse.encode_corpus(model, table, out, **given, sink=sink)
    sparsecse.encode_corpus(model, table, other, **given, sink=sink)
    if sink != "lancedb":  # whose files have names by chance
        assert contents(out) == contents(other)
    vectors, nearest = sparsecse.load_embeddings(out), searched(out, sink, dtype)
    assert all(np.array_equal(vectors[found], vectors[row]) for row, found in enumerate(nearest))
    before = json.loads((out / "manifest.json").read_text())
    assert sparsecse.encode_corpus(model, table, out, **given, sink=sink).encoded == 0
    assert json.loads((out / "manifest.json").read_text()) == before


@pytest.mark.parametrize("sink", ["faiss", "usearch", "lancedb"])
def test_what_has_the_name_of_an_index_and_is_none_of_ours_stays(tmp_path, monkeypatch, model, texts, sink):
    pytest.importorskip(sink)
    out, own = tmp_path / "out", tmp_path / "out" / f"index.{sink}"
    sparsecse.encode_corpus(model, texts, out, **SETTINGS)
    own.mkdir()
    (own / "note").write_text("mine")
    monkeypatch.setattr(Runtime, "encode_ids", None)  # nothing is computed first
    with pytest.raises(InputError, match=f"index.{sink} is not the index that `sink` {sink} wrote there"):
        sparsecse.encode_corpus(model, texts, out, **SETTINGS, sink=sink)
    assert (own / "note").read_text() == "mine"
    (own / "note").unlink()
    own.rmdir()
    sparsecse.encode_corpus(model, texts, out, **SETTINGS, sink=sink)
    if sink != "lancedb":
        own.write_text("mine")
        with pytest.raises(InputError, match="or was changed since; move it away, or delete it to have it built"):
            sparsecse.encode_corpus(model, texts, out, **SETTINGS, sink=sink)
        assert own.read_text() == "mine"


def test_a_graph_has_equal_vectors_once(tmp_path, model):
    index = pytest.importorskip("usearch.index").Index
    pairs = [f"{a} {b}" for a in WORDS for b in WORDS[:4]]
    sparsecse.encode_corpus(model, ["the"] * 400 + pairs, tmp_path / "out", precision="float32", sink="usearch")
    vectors, graph = sparsecse.load_embeddings(tmp_path / "out"), index.restore(str(tmp_path / "out" / "index.usearch"))
    found = graph.search(np.array(vectors), 1).keys[:, 0]
    assert len(graph) == len(np.unique(vectors, axis=0)) and found[399] == 0
    assert np.array_equal(vectors[found], vectors)


@pytest.mark.parametrize(
    "damage",
    [
        {"shards": [3]},
        {"shards": [{"rows": 12}]},
        {"rows": 99},
        {"files": {}},
        {"settings": {}},
        {"indexes": []},
    ],
)
def test_a_manifest_that_does_not_fit_together_is_refused(tmp_path, model, texts, damage):
    sparsecse.encode_corpus(model, texts, tmp_path / "out", **SETTINGS)
    path = tmp_path / "out" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        sparsecse.encode_corpus(model, texts, tmp_path / "out", **SETTINGS)
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        sparsecse.load_embeddings(tmp_path / "out")


def test_float16_holds_no_infinity():
    assert np.array_equal(stored(np.array([[65504.0]], np.float32), "float16"), [[65504]])
    with pytest.raises(InputError, match="float16 holds values up to 65504, and a vector has 70000; take float32"):
        stored(np.array([[1, -70000]], np.float32), "float16")


def test_a_sink_that_cannot_be_built_is_refused_before_anything_is_computed(tmp_path, monkeypatch, model, texts):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match="`sink` faiss needs the package faiss-cpu; run pip install faiss-cpu"):
        sparsecse.encode_corpus(model, texts, tmp_path / "out", **SETTINGS, sink="faiss")
    assert not (tmp_path / "out").exists()
    for sink, dtype in (("faiss", "int8"), ("lancedb", "binary")):
        with pytest.raises(InputError, match=f"`sink` {sink} takes no `dtype` {dtype}"):
            sparsecse.encode_corpus(model, texts, tmp_path / "out", **SETTINGS, sink=sink, dtype=dtype)
