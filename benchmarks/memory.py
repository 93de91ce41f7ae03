"""Memory of `score` against the number of sentences, and of an InfoNCE batch that goes through the model in parts.

python benchmarks/memory.py [--sentences 10000,30000,100000] [--batch 8192] [--mini 64] [--json FILE] [--check]

The model is random and tiny (BERT, 2 layers, vectors of 32 numbers), so that what grows is seen beside what does not.
Each row is a process of its own with one thread: its peak memory beyond what it held before, with the model and the
sentences loaded; what scoring keeps of forward passes where there is room, 1 GiB at most, is left out. --check exits 1
where scoring takes more than `VECTORS` and `BYTES` for each sentence that is added, or where the gradient of the batch
in parts is another than the direct one by more than 1e-5 of its norm.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.update(TQDM_DISABLE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")

import torch
from record import verdict, write_rows
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from sparsecse.benchmarking import machine, versions
from sparsecse.datasets import PairSet
from sparsecse.encoders import Encoder, load_encoder
from sparsecse.scoring import contributions, memory
from sparsecse.training import TrainingSettings
from sparsecse.training.losses import BatchLoss

WIDTH, WORDS, LENGTH = 32, 2000, 12
# Of each sentence: vectors that scoring may hold at its peak, and bytes of ids, text and rows.
VECTORS, BYTES = 10, 1024
DIFFERENCE = 1e-5


def tiny_encoder() -> Encoder:
    """A random BERT over made-up words."""
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *_words()])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    with tempfile.TemporaryDirectory() as folder:
        BertModel(config).save_pretrained(folder)
        PreTrainedTokenizerFast(
            tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
        ).save_pretrained(folder)
        return load_encoder(folder, pooling="mean", normalize=True)


def _words() -> list[str]:
    return [f"w{number}" for number in range(WORDS)]


def made_up(count: int) -> list[str]:
    """Distinct sentences of `LENGTH` words, some fewer."""
    draw, words = random.Random(0), _words()
    drawn = (" ".join(draw.choices(words, k=draw.randint(LENGTH - 4, LENGTH))) for _ in range(2 * count))
    return list(dict.fromkeys(drawn))[:count]


def resident_mb(line: str) -> float:
    """`VmRSS`, what the process holds, or `VmHWM`, the most since the last `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{line}:")[2].split()[0]) / 1024


def forget_peak() -> float:
    """Begin a new peak at what the process holds, which is returned."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident_mb("VmRSS")


def measure_score(count: int) -> dict[str, Any]:
    encoder, texts = tiny_encoder(), made_up(count)
    half = count // 2
    scores = tuple(float(number % 6) for number in range(half))
    pairs = PairSet("made up", "all", tuple(texts[:half]), tuple(texts[half:]), scores, None, "made up")
    memory.KEPT = 0  # forward passes that are kept for their backward passes: up to 1 GiB of any memory there is
    contributions(encoder, PairSet("few", "all", ("w1", "w2"), ("w3", "w4"), (5.0, 0.0), None, "few"))
    before, start = forget_peak(), time.perf_counter()
    contributions(encoder, pairs, precision="float32")
    return {
        "what": "score",
        "sentences": count,
        "seconds": time.perf_counter() - start,
        "added_mb": resident_mb("VmHWM") - before,
        "vectors_mb": count * WIDTH * 4 / 2**20,
    }


def measure_batch(batch: int, parts: int) -> dict[str, Any]:
    """The gradient of one InfoNCE batch of pairs."""
    encoder, texts = tiny_encoder(), made_up(2 * batch)
    settings = TrainingSettings({"sup": 1.0}, batch_size=batch, precision="float32")
    loss = BatchLoss(encoder, settings).eval()
    examples = list(zip(texts[:batch], texts[batch:], strict=True))
    loss(examples[:64]).backward()
    loss.zero_grad()
    loss.parts = parts
    before, start = forget_peak(), time.perf_counter()
    value = loss(examples)
    value.backward()
    gradients = [p.grad.flatten() for p in encoder.parameters() if p.grad is not None]
    return {
        "what": "batch",
        "batch": batch,
        "parts": parts,
        "seconds": time.perf_counter() - start,
        "added_mb": resident_mb("VmHWM") - before,
        "loss": value.item(),
        "gradient": torch.cat(gradients).tolist(),
    }


def apart(*arguments: object) -> dict[str, Any]:
    """A row, measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--row", *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measured(sentences: list[int], batch: int, mini: int) -> Iterator[dict[str, Any]]:
    for count in sentences:
        yield apart("score", count)
    whole = apart("batch", batch, 1)
    direct = torch.tensor(whole.pop("gradient"), dtype=torch.float64)
    yield whole
    cached = apart("batch", batch, -(-batch // mini))
    gradient = torch.tensor(cached.pop("gradient"), dtype=torch.float64)
    yield {**cached, "difference": float((gradient - direct).norm() / direct.norm())}


def failures(rows: list[dict[str, Any]]) -> list[str]:
    missed = []
    scores = [row for row in rows if row["what"] == "score"]
    for fewer, more in itertools.pairwise(scores):
        grown = (more["added_mb"] - fewer["added_mb"]) * 2**20 / (more["sentences"] - fewer["sentences"])
        if grown > VECTORS * 4 * WIDTH + BYTES:
            missed.append(f"from {fewer['sentences']} to {more['sentences']} sentences {grown:.0f} bytes each")
    if rows[-1]["difference"] > DIFFERENCE:
        missed.append(f"the gradient in parts differs by {rows[-1]['difference']:.1e}")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", default="10000,30000,100000", help="of which the scores are taken")
    parser.add_argument("--batch", type=int, default=8192, help="pairs of the InfoNCE batch")
    parser.add_argument("--mini", type=int, default=64, help="of them that go through the model at a time")
    parser.add_argument("--row", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    parser.add_argument("--check", action="store_true", help="exit 1 where a bound is missed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.row:
        what, *numbers = options.row
        measure = {"score": measure_score, "batch": measure_batch}[what]
        print(json.dumps(measure(*map(int, numbers))))
        return 0
    about = {
        **machine(),
        "versions": versions(),
        "threads": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
    }
    print("  ".join(f"{key}: {value}" for key, value in about.items()))
    rows = []
    for row in measured([int(count) for count in options.sentences.split(",")], options.batch, options.mini):
        rows.append(row)
        told = (f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
        print("  ".join(told), flush=True)
    write_rows(options.json, about, rows)
    return verdict(failures(rows) if options.check else [])


if __name__ == "__main__":
    sys.exit(main())
