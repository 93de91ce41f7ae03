"""Vectors as they are stored: their values, and the files of a shard.

The integer kinds are those of sentence-transformers' `quantize_embeddings` (sentence_transformers/util/quantization.py,
version 6): int8 cuts each dimension's range into 255 steps, floor((x - low) / step) - 128, saturated at both ends;
ubinary packs the signs of eight values into a byte, the first in the highest bit, and binary is that minus 128.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsecse.errors import InputError
from sparsecse.files import atomic_file
from sparsecse.reading import lines

RANGES_FILE = "ranges.npy"
_GROUP_ROWS = 8192


def ranges_of(vectors: np.ndarray) -> np.ndarray:
    """The lowest and the highest value of each dimension, float32 [2, dimension]."""
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)])


def stored(vectors: np.ndarray, dtype: str, ranges: np.ndarray | None = None) -> np.ndarray:
    """Vectors, float32 [N, dimension], as one of `DTYPES`: [N, dimension], or [N, dimension / 8 rounded up] of bits.

    ranges: what `ranges_of` gives, for int8.

    Raises:
        InputError: a value that float16 does not hold.
    """
    if dtype == "int8":
        assert ranges is not None
        low = ranges[0]
        steps = (ranges[1] - low) / 255
        steps = np.where(steps == 0, 1, steps)
        return (np.clip(np.floor((vectors - low) / steps), 0, 255) - 128).astype(np.int8)
    if dtype in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if dtype == "ubinary" else (bits - np.uint8(128)).view(np.int8)
    with np.errstate(over="ignore"):
        rows = vectors.astype(dtype, copy=False)
    if dtype == "float16" and not np.isfinite(rows).all():
        raise InputError(
            f"`dtype` float16 holds values up to 65504, and a vector has {np.abs(vectors).max():g}; take float32."
        )
    return rows


def file_names(shard: int, storage: str, has_ids: bool) -> list[str]:
    """The files of a shard, that of the vectors first."""
    vectors = f"vectors-{shard:05d}.{storage}"
    return [vectors, f"ids-{shard:05d}.jsonl"] if has_ids and storage == "npy" else [vectors]


def write_shard(folder: Path, shard: int, storage: str, rows: np.ndarray, ids: Sequence[str] | None) -> None:
    """Write the files of `file_names`, each whole or not at all."""
    vectors, *beside = (folder / name for name in file_names(shard, storage, ids is not None))
    with atomic_file(vectors) as temporary:
        if storage == "npy":
            with temporary.open("wb") as stream:
                np.save(stream, rows, allow_pickle=False)
        else:
            _write_table(temporary, storage, rows, ids)
    for path in beside:
        with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
            stream.writelines(f"{json.dumps(one)}\n" for one in ids or ())


def _write_table(path: Path, storage: str, rows: np.ndarray, ids: Sequence[str] | None) -> None:
    import pyarrow
    from pyarrow import ipc, parquet

    values = pyarrow.array(np.ascontiguousarray(rows).reshape(-1))
    columns: dict[str, Any] = {} if ids is None else {"id": pyarrow.array(ids, pyarrow.string())}
    columns["embedding"] = pyarrow.FixedSizeListArray.from_arrays(values, rows.shape[1])
    table = pyarrow.table(columns)
    if storage == "parquet":
        # Floats hardly compress, and reading them back takes as long as computing with them.
        parquet.write_table(table, path, row_group_size=_GROUP_ROWS, compression="none", use_dictionary=False)
        return
    # A stream, not a file with a footer: what `datasets.Dataset.from_file` maps into memory.
    with ipc.new_stream(str(path), table.schema) as stream:
        stream.write_table(table, max_chunksize=_GROUP_ROWS)


def read_vectors(path: Path) -> np.ndarray:
    """The stored values of a shard [rows, values]; those of an npy file are mapped, not read."""
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r")
    column = _read_table(path).column("embedding").combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def read_ids(folder: Path, shard: int, storage: str) -> list[str]:
    """The ids of a shard that has them."""
    path = folder / file_names(shard, storage, True)[-1]
    if storage == "npy":
        return [json.loads(line) for line in lines(path)]
    return _read_table(path).column("id").to_pylist()


def _read_table(path: Path) -> Any:
    import pyarrow
    from pyarrow import ipc, parquet

    if path.suffix == ".parquet":
        return parquet.read_table(path)
    with pyarrow.memory_map(str(path)) as source, ipc.open_stream(source) as stream:
        return stream.read_all()
