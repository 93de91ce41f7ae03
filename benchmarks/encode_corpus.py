"""A corpus from text to shards: our rate against token ids that are ready, and against what people use.

    python benchmarks/encode_corpus.py [CORPUS] [--model MODEL] [--rows N] [--threads T] [--rounds R] [--precision P]
                                       [--alone] [--json FILE] [--check]

All contenders embed the same texts in turn, round after round, and the best round counts:

- `encode_ids`: `Runtime.encode_ids` on ready token ids, in blocks of as many rows as `encode_corpus` takes, to vectors
  in memory: the rate if nothing is read, tokenised or written;
- `encode_ids, sorted`: the same, with each block sorted by length: what sorting would gain;
- `encode_corpus`: from a text file to npy shards on disk;
- sentence-transformers (`SentenceTransformer.encode`, its defaults, batches of 32) and fastembed
  (`TextEmbedding.embed`, its defaults, of the same model where it has it), where they are installed: from texts to
  vectors in memory; `--alone` leaves them out.

By default CORPUS is the built-in demo, repeated with a number before each text so that no two are the same. `--check`
wants 90 % of the rate of `encode_ids`.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import best_times

from sparsecse import encode_corpus, load_encoder
from sparsecse.benchmarking import machine, versions
from sparsecse.corpora.blocks import ROWS
from sparsecse.datasets.corpora import open_corpus
from sparsecse.runtime import Runtime

SHARE = 0.9


def texts_of(corpus: str, rows: int) -> list[str]:
    """The first rows of a corpus; the demo again and again, with numbers."""
    if corpus != "demo":
        return [text for text, _ in itertools.islice(open_corpus(corpus).rows, rows)]
    demo = itertools.cycle([text for text, _ in open_corpus(corpus).rows])
    return [f"{number} {text}" for number, text in zip(range(rows), demo, strict=False)]


def others(model: str, texts: list[str], threads: int) -> dict[str, Callable[[], object]]:
    """sentence-transformers and fastembed, as far as they are there and know the model."""
    found: dict[str, Callable[[], object]] = {}
    source = load_encoder(model).source
    if importlib.util.find_spec("sentence_transformers"):
        from sentence_transformers import SentenceTransformer

        theirs = SentenceTransformer(source, device="cpu")
        found["sentence-transformers"] = lambda: theirs.encode(texts)
    if importlib.util.find_spec("fastembed"):
        from fastembed import TextEmbedding

        names = [one["model"] for one in TextEmbedding.list_supported_models()]
        name = "sentence-transformers/all-MiniLM-L6-v2" if model == "demo" else model
        if name in names:
            quick = TextEmbedding(name, threads=threads)
            found["fastembed"] = lambda: np.stack(list(quick.embed(texts)))
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rows a second of every contender."""
    torch.set_num_threads(arguments.threads)
    texts = texts_of(arguments.corpus, arguments.rows)
    encoder = load_encoder(arguments.model)
    runtime = Runtime(encoder, arguments.precision, arguments.threads)
    token_ids = encoder.tokenize(texts)
    blocks = [token_ids[start : start + ROWS] for start in range(0, len(texts), ROWS)]
    by_length = [sorted(block, key=len) for block in blocks]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "corpus.txt"
        source.write_text("".join(f"{' '.join(text.split())}\n" for text in texts))
        numbers = itertools.count()
        rates: list[float] = []

        def shards() -> None:
            done = encode_corpus(
                encoder,
                source,
                Path(folder) / f"out-{next(numbers)}",
                precision=runtime.precision,
                threads=arguments.threads,
                shard_rows=arguments.shard_rows,
                input_format="text",
            )
            rates.append(done.encoded / done.seconds)

        contenders: dict[str, Callable[[], object]] = {
            "encode_ids": lambda: [runtime.encode_ids(block) for block in blocks],
            "encode_ids, sorted": lambda: [runtime.encode_ids(block) for block in by_length],
            "encode_corpus": shards,
            **({} if arguments.alone else others(arguments.model, texts, arguments.threads)),
        }
        best = best_times(contenders, arguments.rounds, 0.0)
    # The time of encode_corpus without loading, which takes the same however long the corpus is.
    found = {name: len(texts) / seconds for name, seconds in best.items()} | {"encode_corpus": max(rates)}
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(("sentence-transformers", "fastembed", "numpy")),
        "rows": len(texts),
        "tokens": sum(map(len, token_ids)),
        "threads": arguments.threads,
        "precision": runtime.precision,
        "rows_per_second": found,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", default="demo")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--shard-rows", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    report = measure(arguments)
    rates = report["rows_per_second"]
    for name, rate in rates.items():
        print(f"{name:24} {rate:10,.0f} rows/s {rate / rates['encode_ids']:7.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    missed = arguments.check and rates["encode_corpus"] < SHARE * rates["encode_ids"]
    if missed:
        print(f"encode_corpus is below {SHARE:.0%} of encode_ids")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
