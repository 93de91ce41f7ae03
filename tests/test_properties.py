"""Whatever a file holds, a reader returns or refuses it with one sentence: random bytes, JSON, tables, model folders.

`pytest -n 4 --timeout 0 --hypothesis-profile nightly tests/test_properties.py` draws 100,000 cases of each; none may
take 5 s.
"""

from __future__ import annotations

import gzip
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folders.build import Row, build
from folders.rows import CLS, DENSE, NORMALIZE
from hypothesis import example, given
from hypothesis import strategies as st

from sparsecse.datasets import load_pairs, load_retrieval, load_sentences, load_triplets
from sparsecse.encoders import load_encoder
from sparsecse.errors import InputError
from sparsecse.evaluation.labelled import load_labelled
from sparsecse.files import read_json
from sparsecse.pruning.masks import Mask
from sparsecse.scoring import Scores
from sparsecse.workdir import Record, Workdir

MOST_MEMORY = 1 << 30
"""Bytes that reading may add to what the process has held."""

COLUMNS = (
    *("sentence", "sentence1", "sentence2", "score", "text", "label", "title", "_id"),
    *("query-id", "corpus-id", "anchor", "positive", "negative"),
)
NAMES = st.sampled_from(COLUMNS) | st.text(max_size=6)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 1, 2, 10**9, 2**31, 2**63, 10**400, float("nan"), float("inf")])
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["the cat sat", "a dog", "1", "4.5", "5,0", "\x00", "\ud800", "../outside", "/etc"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)
CELLS = st.sampled_from(["the cat sat", "a dog", "1", "5", "2.5", "1e999", "nan", "", " ", '"', '"a', "\r", "\ufeff"])
CELLS |= st.text(max_size=8)
ROWS = st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=4)
OBJECTS = st.lists(st.dictionaries(NAMES, VALUES, max_size=4) | VALUES, max_size=4)


def tabular(header: list[str], rows: list[list[str]], delimiter: str, end: str) -> bytes:
    return end.join(delimiter.join(cells) for cells in (header, *rows)).encode("utf-8", "surrogatepass")


TABLES = st.builds(
    tabular, st.lists(NAMES, max_size=4), ROWS, st.sampled_from(["\t", ",", ";"]), st.sampled_from(["\n", "\r\n", "\r"])
)
JSON_LINES = OBJECTS.map(lambda rows: "\n".join(json.dumps(row) for row in rows).encode())
JSON_LISTS = (OBJECTS | VALUES).map(lambda value: json.dumps(value).encode())
BYTES = st.binary(max_size=64) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass"))
CONTENTS = TABLES | JSON_LINES | JSON_LISTS | BYTES


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("place")


@pytest.fixture(autouse=True)
def bounded():
    """What is read takes no memory that its size does not explain."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_MEMORY


def read_or_refused(read: Callable[[Path], object], path: Path) -> None:
    try:
        read(path)
    except InputError as error:
        assert str(error) and "\n" not in str(error)


@example(content=b'{"\\n\\u001b[2J\\u2028": null}', suffix=".jsonl", packed=False)  # a name of several lines
@given(
    content=CONTENTS,
    suffix=st.sampled_from([".tsv", ".csv", ".jsonl", ".json", ".txt", ".parquet", ".tsv.gz", ".jsonl.gz", ".txt.gz"]),
    packed=st.booleans(),
)
def test_tables_and_texts(place, content, suffix, packed):
    path = place / f"data{suffix}"
    path.write_bytes(gzip.compress(content) if packed else content)
    for read in (load_pairs, load_triplets, load_sentences, load_labelled):
        read_or_refused(read, path)


@given(columns=st.dictionaries(NAMES, st.lists(VALUES, min_size=2, max_size=2), max_size=4))
def test_parquet(place, columns):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = place / "data.parquet"
    try:
        parquet.write_table(pyarrow.table(columns), path)
    except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError):
        return  # no column can hold these
    for read in (load_pairs, load_triplets, load_sentences, load_labelled):
        read_or_refused(read, path)


@given(
    corpus=JSON_LINES | st.just(b'{"_id": "d", "text": "the cat"}\n'),
    queries=JSON_LINES | st.just(b'{"_id": "q", "text": "a cat"}\n'),
    qrels=TABLES | st.just(b"query-id\tcorpus-id\tscore\nq\td\t1\n") | BYTES,
)
def test_retrieval_folders(place, corpus, queries, qrels):
    folder = place / "retrieval"
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    (folder / "corpus.jsonl").write_bytes(corpus)
    (folder / "queries.jsonl").write_bytes(queries)
    (folder / "qrels/test.tsv").write_bytes(qrels)
    read_or_refused(load_retrieval, folder)


@given(content=JSON_LISTS | BYTES, name=st.sampled_from(["scores.safetensors", "mask.safetensors", "record.json"]))
def test_what_a_run_directory_holds(place, content, name):
    run = Workdir(place / "run")
    path = run.folder("score") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    readers = {"scores.safetensors": Scores.load, "mask.safetensors": Mask.load}
    read_or_refused(readers.get(name, lambda _: run.record("score")), path)


@given(fields=st.dictionaries(st.sampled_from(sorted(Record.__dataclass_fields__)), VALUES))
def test_records(place, fields):
    run = Workdir(place / "run")
    run.folder("score").mkdir(parents=True, exist_ok=True)
    whole: dict[str, Any] = {"stage": "score", "inputs": {}, "settings": {}, "info": {}, "outputs": {}}
    (run.folder("score") / "record.json").write_text(json.dumps({**whole, **fields}))
    read_or_refused(lambda _: run.changed("score"), run.path)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return build(Row("bert", parts=(CLS, DENSE, NORMALIZE)), tmp_path_factory.mktemp("model") / "bert")


FILES = (
    *("config.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    *("1_Pooling/config.json", "2_Dense/config.json", "tokenizer_config.json", "tokenizer.json"),
)


@given(data=st.data(), name=st.sampled_from(FILES))
def test_model_folders(place, model, data, name):
    """One value of a file is another, or a key is new, or the file is another one."""
    folder = place / "model"
    if not folder.exists():
        shutil.copytree(model, folder)
    path = folder / name
    before = path.read_bytes() if path.exists() else None
    content = json.loads(before) if before else {}
    if data.draw(st.integers(0, 4)) == 0:
        changed = data.draw(JSON_LISTS | BYTES)
    else:
        holder = data.draw(st.sampled_from(content)) if isinstance(content, list) else content
        holder[data.draw(st.sampled_from(sorted(holder)) | NAMES if holder else NAMES)] = data.draw(VALUES)
        changed = json.dumps(content).encode()
    path.write_bytes(changed)
    try:
        read_or_refused(load_encoder, folder)
    finally:
        path.unlink() if before is None else path.write_bytes(before)


@given(content=JSON_LISTS | BYTES)
def test_json_files(place, content):
    path = place / "file.json"
    path.write_bytes(content)
    read_or_refused(read_json, path)
