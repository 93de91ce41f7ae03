"""Embedding a corpus: rows in order, every format, resumed to the same bytes, refused where something changed."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import sparsecse
from sparsecse.corpora import blocks
from sparsecse.corpora.folder import Shards
from sparsecse.corpora.shards import read_ids, read_vectors
from sparsecse.cli import main
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
