"""Files that are searched: an index of a folder's vectors, built of its finished shards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from sparsecse.corpora.shards import file_names, read_ids, read_vectors
from sparsecse.errors import InputError

_BITS = {"binary", "ubinary"}
# Of a shard, that are copied at a time.
_ROWS = 8192


@dataclass(frozen=True)
class Finished:
    """The finished folder that an index is built of."""

    path: Path
    shards: int
    storage: str
    dtype: str
    dimension: int
    has_ids: bool

    def parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """Some rows at a time as they are stored, [rows, values], each with the number of its first one."""
        first = 0
        for shard in range(self.shards):
            rows = read_vectors(self.path / file_names(shard, self.storage, self.has_ids)[0])
            for start in range(0, len(rows), _ROWS):
                part = np.ascontiguousarray(rows[start : start + _ROWS])
                yield first + start, part.view(np.uint8) + np.uint8(128) if self.dtype == "binary" else part
            first += len(rows)

    def ids(self) -> Iterator[str]:
        return (one for shard in range(self.shards) for one in read_ids(self.path, shard, self.storage))


def _faiss(folder: Finished, path: Path) -> None:
    import faiss

    index: Any
    write: Callable[[Any, str], None] = faiss.write_index
    if folder.dtype in _BITS:
        index, write = faiss.IndexBinaryFlat(8 * -(-folder.dimension // 8)), faiss.write_index_binary
    elif folder.dtype == "float16":
        index = faiss.IndexScalarQuantizer(folder.dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexFlatIP(folder.dimension)
    for _, rows in folder.parts():
        index.add(rows if folder.dtype in _BITS else rows.astype(np.float32))
    write(index, str(path))


def _usearch(folder: Finished, path: Path) -> None:
    from usearch.index import Index

    bits = folder.dtype in _BITS
    kind = "b1" if bits else {"float32": "f32", "float16": "f16"}[folder.dtype]
    index = Index(
        ndim=8 * -(-folder.dimension // 8) if bits else folder.dimension, metric="hamming" if bits else "ip", dtype=kind
    )
    seen: set[bytes] = set()
    for first, rows in folder.parts():
        # Equal vectors would have only one another for neighbours, and the graph no way from them to others.
        new = [place for place, row in enumerate(rows) if _is_new(row, seen)]
        # One thread: with several the graph depends on which is first.
        index.add(np.array(new, dtype=np.uint64) + np.uint64(first), rows[new], threads=1)
    index.save(str(path))


def _is_new(row: np.ndarray, seen: set[bytes]) -> bool:
    """Whether a vector was not seen before; it is then."""
    before = len(seen)
    seen.add(hashlib.blake2b(row.tobytes(), digest_size=16).digest())
    return len(seen) > before


def _lancedb(folder: Finished, path: Path) -> None:
    import lancedb
    import pyarrow

    number = pyarrow.float16() if folder.dtype == "float16" else pyarrow.float32()
    columns = [("row", pyarrow.int64()), *([("id", pyarrow.string())] if folder.has_ids else [])]
    schema = pyarrow.schema([*columns, ("vector", pyarrow.list_(number, folder.dimension))])

    def batches() -> Iterator[Any]:
        ids = folder.ids() if folder.has_ids else iter(())
        for first, rows in folder.parts():
            arrays: list[Any] = [pyarrow.array(np.arange(first, first + len(rows)))]
            if folder.has_ids:
                arrays.append(pyarrow.array([next(ids) for _ in rows], pyarrow.string()))
            values = pyarrow.array(rows.reshape(-1))
            arrays.append(pyarrow.FixedSizeListArray.from_arrays(values, folder.dimension))
            yield pyarrow.RecordBatch.from_arrays(arrays, schema=schema)

    lancedb.connect(str(path)).create_table("vectors", batches(), schema=schema)


@dataclass(frozen=True)
class Sink:
    """name: of the file or folder. package: as pip knows it; module: as Python does.

    build: writes an empty file, or fills an empty folder.
    """

    name: str
    package: str
    module: str
    build: Callable[[Finished, Path], None]
    is_folder: bool = False


SINKS = {
    "faiss": Sink("index.faiss", "faiss-cpu", "faiss", _faiss),
    "usearch": Sink("index.usearch", "usearch", "usearch.index", _usearch),
    "lancedb": Sink("index.lancedb", "lancedb", "lancedb", _lancedb, is_folder=True),
}


def check_sink(name: str) -> None:
    """Raise `InputError` where the package of a sink cannot be imported."""
    sink = SINKS[name]
    try:
        import_module(sink.module)
    except ImportError:
        raise InputError(f"`sink` {name} needs the package {sink.package}; run pip install {sink.package}.") from None
