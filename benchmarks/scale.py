"""A cost model of scoring, training and embedding: fitted on small random models here, and what it says of large ones.

python benchmarks/scale.py [--json FILE]

Times are processor seconds of one thread (others on the machine matter little then), the better of two, of random
BERTs of several depths, widths and lengths of text. With T tokens in N texts, S layers of width w (feed-forward 4 w)
and texts of length t, a forward pass takes F = T S (24 w^2 + 4 w t) operations, and

    seconds = a P F + b T S w + c N + e 3 N^2 w     (the last term for scores alone)

where P is 1 for embedding and 3 for scores (two forward passes and a backward one to the activations) and for training
(one, and a backward one of twice its work). a is the time of an operation in a matrix product, b of what is done number
by number, c of a text, e of an operation of the uniformity. A model of BERT-base's size is measured as well, and what
the fit without it predicts is divided by what it took.

What GPUs would take is arithmetic from assumptions that are printed, not measured.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.update(TQDM_DISABLE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")

import numpy as np
import torch
from memory import WORDS, made_up, over_words
from record import write_rows
from scipy.optimize import nnls
from transformers import BertConfig, BertModel

from sparsecse.benchmarking import machine, versions
from sparsecse.datasets import PairSet
from sparsecse.encoders import Encoder
from sparsecse.kernels import uniformity_value_and_grad
from sparsecse.runtime import Runtime
from sparsecse.scoring import contributions, memory
from sparsecse.training import TrainingSettings
from sparsecse.training.losses import BatchLoss

PASSES = {"encode": 1, "score": 3, "train": 3}
LAYERS, WIDTHS, REPEATED = (2, 4), (128, 384), (1, 4)
LARGE = {"BERT-base": (12, 768), "BERT-large": (24, 1024)}
LENGTH = 32  # tokens of a sentence in the predictions
# An H100 (SXM), by its data sheet, without sparsity; the part of it that is reached is a guess.
BF16, FP32, REACHED = 989e12, 67e12, 0.3


@dataclass(frozen=True)
class Work:
    """N texts of so many tokens through S layers of width w."""

    layers: int
    width: int
    texts: int
    length: int

    @property
    def tokens(self) -> int:
        return self.texts * self.length

    @property
    def forward(self) -> float:
        return self.tokens * self.layers * (24.0 * self.width**2 + 4 * self.width * self.length)

    def terms(self, what: str) -> list[float]:
        return [PASSES[what] * self.forward, float(self.tokens * self.layers * self.width), float(self.texts)]


def model(layers: int, width: int) -> Encoder:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS + 4,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        intermediate_size=4 * width,
        pad_token_id=1,
    )
    return over_words(BertModel(config))


def seconds(work: Callable[[], Any]) -> float:
    found = []
    for _ in range(3):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found[1:])


def measured() -> Iterator[dict[str, Any]]:
    memory.KEPT = 0
    for layers, width in (*itertools.product(LAYERS, WIDTHS), LARGE["BERT-base"]):
        encoder = model(layers, width)
        for times in REPEATED:
            yield from of_model(encoder, Work(layers, width, (64 if width < 768 else 32) // times, 0), times)
    for count in (2000, 4000):
        x = torch.nn.functional.normalize(torch.randn(count, WIDTHS[-1]), dim=-1)
        took = seconds(partial(uniformity_value_and_grad, x))
        yield {"what": "uniformity", "texts": count, "width": WIDTHS[-1], "seconds": took}


def of_model(encoder: Encoder, size: Work, times: int) -> Iterator[dict[str, Any]]:
    """times: how often the words of each text are repeated."""
    texts = [" ".join([text] * times) for text in made_up(size.texts)]
    half = len(texts) // 2
    ids = encoder.tokenize(texts)
    size = replace(size, length=round(sum(map(len, ids)) / len(ids)))
    golds = tuple(5.0 * (number % 2) for number in range(half))
    pairs = PairSet("made up", "all", tuple(texts[:half]), tuple(texts[half:]), golds, None, "made up")
    loss = BatchLoss(encoder, TrainingSettings({"sup": 1.0}, batch_size=half, precision="float32")).train()
    calls = {
        "encode": partial(Runtime(encoder, "float32", 1).encode_ids, ids),
        "score": partial(contributions, encoder, pairs, precision="float32"),
        "train": lambda: loss(list(zip(pairs.first, pairs.second, strict=True))).backward(),
    }
    yield from ({"what": what, **asdict(size), "seconds": seconds(call)} for what, call in calls.items())


def fitted(rows: Sequence[dict[str, Any]], what: str) -> tuple[list[float], float]:
    """a, b and c, and the largest relative error on the rows."""
    own = [row for row in rows if row["what"] == what]
    terms = np.array([size_of(row).terms(what) for row in own])
    wanted = np.array([row["seconds"] for row in own])
    found, _ = nnls(terms / wanted[:, None], np.ones(len(own)))
    return found.tolist(), float(np.abs(terms @ found / wanted - 1).max())


def size_of(row: dict[str, Any]) -> Work:
    return Work(row["layers"], row["width"], row["texts"], row["length"])


def fits(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    small = [row for row in rows if row["width"] in WIDTHS]
    for what in PASSES:
        (a, b, c), error = fitted(small, what)
        base = [row for row in rows if row["what"] == what and row not in small]
        ratios = [float(np.dot(size_of(row).terms(what), [a, b, c])) / row["seconds"] for row in base]
        found.append({"what": what, "a": a, "b": b, "c": c, "error": error, "base": ratios})
    quadratic = [row["seconds"] / (3 * row["texts"] ** 2 * row["width"]) for row in rows if row["what"] == "uniformity"]
    found.append({"what": "uniformity", "e": quadratic[-1]})
    return found


def predictions(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hours on one core as here, and on GPUs by assumption."""
    by = {fit["what"]: fit for fit in found}
    rows = []
    for name, (layers, width) in LARGE.items():
        for texts in (10**6, 10**9):
            work = Work(layers, width, texts, LENGTH)
            pairs = 3.0 * texts**2 * width
            for what, passes in PASSES.items():
                fit = by[what]
                own = float(np.dot(work.terms(what), [fit["a"], fit["b"], fit["c"]]))
                row = {"model": name, "texts": texts, "what": what, "core_hours": own / 3600}
                row |= {
                    f"gpu_hours_{count}": passes * work.forward / (count * REACHED * BF16) / 3600 for count in (8, 64)
                }
                if what == "score":  # every process takes the objective of all
                    row |= {
                        "pairs_core_hours": by["uniformity"]["e"] * pairs / 3600,
                        "pairs_gpu_hours": pairs / (REACHED * FP32) / 3600,
                        "vectors_gb": 3 * 4 * texts * width / 1e9,
                    }
                rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows, the fit and the predictions here as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = {
        **machine(),
        "versions": versions(),
        "threads": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
        "assumed": {"bf16": BF16, "fp32": FP32, "reached": REACHED, "tokens of a text": LENGTH},
    }
    rows = []
    for row in measured():
        rows.append(row)
        print(row, flush=True)
    found = fits(rows)
    told = predictions(found)
    for row in (*found, *told):
        print(
            "  ".join(
                f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )
    write_rows(options.json, about | {"fits": found, "predictions": told}, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
