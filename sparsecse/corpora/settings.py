"""What a corpus is embedded with."""

from __future__ import annotations

from dataclasses import dataclass

from sparsecse.errors import InputError
from sparsecse.settings import at_least, choose, documented, setting

FORMATS = ("npy", "parquet", "arrow")
DTYPES = ("float32", "float16", "int8", "binary", "ubinary")
SINKS = ("faiss", "usearch", "lancedb")


@documented
@dataclass(frozen=True)
class CorpusSettings:
    """How a corpus is read, embedded and stored.

    Raises:
        InputError: an unknown format or dtype, a number out of range, a prompt given twice.
    """

    column: str | None = setting(
        None, "Column of the texts in a table; by default sentence, else text, else the only one."
    )
    id_column: str | None = setting(None, "Column of ids, texts or whole numbers, that are stored with the vectors.")
    input_format: str | None = setting(
        None, "text, tsv, csv, jsonl, json or parquet, where the name of the input does not say it."
    )
    format: str = setting(
        "npy",
        "Files of the shards: npy (an array each, which NumPy, FAISS and usearch map or read), parquet or arrow (a "
        "column embedding, and id).",
    )
    dtype: str = setting(
        "float32",
        "float32, float16, int8 (a range per dimension, that of the first shard's vectors), binary or ubinary (a bit a "
        "value, packed), as sentence-transformers' quantize_embeddings has them.",
    )
    sink: str | None = setting(
        None,
        "Also build of the finished shards what is searched: faiss (an exact index in a file, inner product), usearch "
        "(an HNSW graph in a file) or lancedb (a table).",
    )
    shard_rows: int = setting(65_536, "Rows of a shard, all of which are in memory until it is written.")
    prompt: str | None = setting(None, 'Text put before every text (E5: "passage: "); "" for none.')
    prompt_name: str | None = setting(None, "Name of the model's own prompt that is put before every text.")
    precision: str = setting(
        "auto",
        "What it is computed in: float32, bfloat16, int8 (CPU), float16 (GPU), or auto: the fastest good one, which an "
        "interrupted call goes on with.",
    )
    device: str | None = setting(None, "cpu, or cuda, cuda:0, ... for a GPU; by default where the model is, the CPU.")
    threads: int | None = setting(None, "CPU threads in all; by default what torch takes, within a container's quota.")
    processes: int = setting(1, "Processes that compute; each has the model in memory and its share of the threads.")

    def __post_init__(self) -> None:
        choose("format", self.format, FORMATS)
        choose("dtype", self.dtype, DTYPES)
        if self.sink is not None:
            choose("sink", self.sink, SINKS)
            taken = [one for one in DTYPES if one != "int8" and (self.sink != "lancedb" or one.startswith("float"))]
            if self.dtype not in taken:  # the steps of int8 differ between dimensions
                raise InputError(f"`sink` {self.sink} takes no `dtype` {self.dtype}; give {' or '.join(taken)}.")
        at_least("shard_rows", self.shard_rows, 1)
        at_least("processes", self.processes, 1)
        if None not in (self.prompt, self.prompt_name):
            raise InputError("`prompt` is a prompt's text and `prompt_name` names another; give one of them.")
