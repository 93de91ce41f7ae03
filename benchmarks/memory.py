"""Memory of `score` against the number of sentences, and of an InfoNCE batch that goes through the model in parts.

python benchmarks/memory.py [--sentences 10000,100000,300000] [--batch 8192] [--mini 64] [--json FILE] [--plot FILE]
    [--check]
python benchmarks/memory.py --base [--json FILE]

The model is random and tiny (BERT, 2 layers, vectors of 32 numbers), so that what grows is seen beside what does not.
Each row is a process of its own with one thread: its peak memory beyond what it held before, with the model loaded.
Sentences come as pairs from a TSV file; what reading them takes, and what scoring takes beside the texts, are told
apart. What scoring keeps of forward passes where there is room, 1 GiB at most, is left out. --check exits 1 where
reading takes more than `TEXTS` or scoring more than `VECTORS` and `BYTES` for each sentence that is added, or where the
gradient of the batch in parts is another than the direct one by more than 1e-5 of its norm.

--base takes a random model of MPNet-base's size instead: all memory at the peak of scoring 100 pairs, and of a training
step, with the activations of layers kept and computed again.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
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
from transformers import BertConfig, BertModel, MPNetConfig, MPNetModel, PreTrainedTokenizerFast

from sparsecse.benchmarking import machine, versions
from sparsecse.datasets import PairSet, load_pairs
from sparsecse.encoders import Encoder, load_encoder
from sparsecse.reporting.plots import png
from sparsecse.scoring import contributions, memory
from sparsecse.training import TrainingSettings
from sparsecse.training.checkpointing import layers_again
from sparsecse.training.losses import BatchLoss

WIDTH, WORDS, LENGTH = 32, 2000, 12
# Of each sentence, at the peak: bytes of its text as it is read, vectors of scoring, and bytes of ids and rows.
TEXTS, VECTORS, BYTES = 300, 3, 300
DIFFERENCE = 1e-5


def tiny_encoder() -> Encoder:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS + 4,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
        pad_token_id=1,
    )
    return over_words(BertModel(config))


def base_encoder() -> Encoder:
    """The size of all-mpnet-base-v2."""
    torch.manual_seed(0)
    return over_words(MPNetModel(MPNetConfig(max_position_embeddings=514)))


def over_words(model: BertModel | MPNetModel) -> Encoder:
    """An encoder over made-up words."""
    words = {word: number for number, word in enumerate(["[UNK]", "[PAD]", "[CLS]", "[SEP]", *_words()])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        PreTrainedTokenizerFast(
            tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
        ).save_pretrained(folder)
        return load_encoder(folder, pooling="mean", normalize=True)


def _words() -> list[str]:
    return [f"w{number}" for number in range(WORDS)]


def made_up(count: int) -> list[str]:
    """Sentences of `LENGTH` words, some fewer; hardly one occurs twice."""
    draw, words = random.Random(0), _words()
    return [" ".join(draw.choices(words, k=draw.randint(LENGTH - 4, LENGTH))) for _ in range(count)]


def resident_mb(line: str) -> float:
    """`VmRSS`, what the process holds, or `VmHWM`, the most since the last `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{line}:")[2].split()[0]) / 1024


def forget_peak() -> float:
    """Begin a new peak at what the process holds, which is returned, without what it could give back."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident_mb("VmRSS")


def write_pairs(path: Path, count: int) -> None:
    """A table of so many sentences, in pairs."""
    texts = iter(made_up(count))
    rows = (
        f"{first}\t{second}\t{number % 6}\n" for number, (first, second) in enumerate(zip(texts, texts, strict=True))
    )
    with path.open("w") as stream:
        stream.writelines(["sentence1\tsentence2\tscore\n", *rows])


def measure_score(path: str) -> dict[str, Any]:
    encoder = tiny_encoder()
    memory.KEPT = 0  # forward passes that are kept for their backward passes: up to 1 GiB of any memory there is
    contributions(encoder, PairSet("few", "all", ("w1", "w2"), ("w3", "w4"), (5.0, 0.0), None, "few"))
    start = forget_peak()
    pairs = load_pairs(path)
    read = resident_mb("VmHWM") - start
    count = len(pairs.sentences())
    before, start = forget_peak(), time.perf_counter()
    contributions(encoder, pairs, batch_size=256, precision="float32")
    return {
        "what": "score",
        "sentences": count,
        "seconds": time.perf_counter() - start,
        "read_mb": read,
        "added_mb": resident_mb("VmHWM") - before,
        "vectors_mb": count * WIDTH * 4 / 2**20,
    }


def measure_batch(*numbers: str) -> dict[str, Any]:
    """The gradient of one InfoNCE batch of so many pairs, in so many parts."""
    batch, parts = map(int, numbers)
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


def measure_base_score(count: str) -> dict[str, Any]:
    """All that a process holds at its peak, the default limits on what is kept of forward passes among it."""
    encoder, texts = base_encoder(), made_up(2 * int(count))
    half = len(texts) // 2
    scores = tuple(float(number % 6) for number in range(half))
    pairs = PairSet("made up", "all", tuple(texts[:half]), tuple(texts[half:]), scores, None, "made up")
    before, start = forget_peak(), time.perf_counter()
    contributions(encoder, pairs, precision="float32")
    return {
        "what": "score, base",
        "pairs": half,
        "seconds": time.perf_counter() - start,
        "before_mb": before,
        "peak_mb": resident_mb("VmHWM"),
    }


def measure_base_step(batch: str, again: str) -> dict[str, Any]:
    """The forward and backward pass of an InfoNCE batch of pairs of 64 tokens."""
    encoder = base_encoder()
    words = _words()
    texts = [" ".join(words[start : start + 62]) for start in range(2 * int(batch))]
    settings = TrainingSettings({"sup": 1.0}, batch_size=int(batch), precision="float32")
    loss = BatchLoss(encoder, settings).train()
    before, start = forget_peak(), time.perf_counter()
    with layers_again(encoder, again == "again"):
        loss(list(zip(texts[::2], texts[1::2], strict=True))).backward()
    return {
        "what": "step, base",
        "layers": again,
        "tokens": 64 * len(texts),
        "seconds": time.perf_counter() - start,
        "before_mb": before,
        "peak_mb": resident_mb("VmHWM"),
    }


def apart(*arguments: object) -> dict[str, Any]:
    """A row, measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--row", *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measured_base() -> Iterator[dict[str, Any]]:
    yield apart("base-score", 100)
    for again in ("kept", "again"):
        yield apart("base-step", 16, again)


def measured(sentences: list[int], batch: int, mini: int) -> Iterator[dict[str, Any]]:
    for count in sentences:
        with tempfile.TemporaryDirectory() as folder:
            write_pairs(Path(folder) / "pairs.tsv", count)
            yield apart("score", Path(folder) / "pairs.tsv")
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
        for what, most in (("read_mb", TEXTS), ("added_mb", VECTORS * 4 * WIDTH + BYTES)):
            grown = (more[what] - fewer[what]) * 2**20 / (more["sentences"] - fewer["sentences"])
            if grown > most:
                missed.append(
                    f"{what} from {fewer['sentences']} to {more['sentences']} sentences: {grown:.0f} bytes each"
                )
    if rows[-1]["difference"] > DIFFERENCE:
        missed.append(f"the gradient in parts differs by {rows[-1]['difference']:.1e}")
    return missed


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Memory against sentences."""
    scores = [row for row in rows if row["what"] == "score"]
    counts = [row["sentences"] for row in scores]
    with png(path, (7, 4.5), 150, "benchmarks/memory.py") as figure:
        axes = figure.subplots()
        for what, label in (
            ("added_mb", "scoring, beside model and texts"),
            ("read_mb", "reading the pairs, texts included"),
            ("vectors_mb", "one set of vectors, sentences x 32 floats"),
        ):
            style = {"linestyle": "--", "color": "black"} if what == "vectors_mb" else {"marker": "o"}
            axes.plot(counts, [row[what] for row in scores], label=label, **style)
        axes.set(xlabel="sentences", ylabel="peak memory, MiB", xlim=0, ylim=0)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", default="10000,100000,300000", help="of which the scores are taken")
    parser.add_argument("--batch", type=int, default=8192, help="pairs of the InfoNCE batch")
    parser.add_argument("--mini", type=int, default=64, help="of them that go through the model at a time")
    parser.add_argument("--base", action="store_true", help="a model of a base size instead")
    parser.add_argument("--row", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    parser.add_argument("--plot", type=Path, help="draw the memory of scoring into this PNG file")
    parser.add_argument("--check", action="store_true", help="exit 1 where a bound is missed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.row:
        what, *arguments = options.row
        measure = {
            "score": measure_score,
            "batch": measure_batch,
            "base-score": measure_base_score,
            "base-step": measure_base_step,
        }[what]
        print(json.dumps(measure(*arguments)))
        return 0
    about = {
        **machine(),
        "versions": versions(),
        "threads": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
    }
    print("  ".join(f"{key}: {value}" for key, value in about.items()))
    rows = []
    counts = [int(count) for count in options.sentences.split(",")]
    for row in measured_base() if options.base else measured(counts, options.batch, options.mini):
        rows.append(row)
        told = (f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
        print("  ".join(told), flush=True)
    write_rows(options.json, about, rows)
    if options.plot is not None:
        draw(rows, options.plot)
    return verdict(failures(rows) if options.check and not options.base else [])


if __name__ == "__main__":
    sys.exit(main())
