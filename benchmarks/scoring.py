"""Score and training step: the loops that people write, with padding, against sparsecse's, on the same sentences.

python benchmarks/scoring.py --data-dir SENTEVAL [--sentences N] [--threads T] [--rounds R] [--json FILE] [--check]
python benchmarks/scoring.py --data-dir SENTEVAL --alone [--model DIR] ...

Each peer is written out below: batches of 64 sentences in the order they come, padded, float32, PyTorch's own
operators; scores by gates for every sentence and autograd (which computes no gradient of a weight for either side).
Peer and sparsecse take turns, the best time of all rounds counts. With --alone there are no peers: one score in float32
and the peak memory of the process after it, which is what a base model needs on a small machine.
"""

from __future__ import annotations

import argparse
import datetime
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from record import verdict, write_rows
from torch import nn

from sparsecse import stages
from sparsecse.benchmarking import machine, versions
from sparsecse.datasets import PairSet, load_pairs
from sparsecse.encoders import Encoder, load_encoder
from sparsecse.kernels import dispatch
from sparsecse.objectives import distillation, info_nce
from sparsecse.scoring import contributions, resolved_precision
from sparsecse.training import TrainingSettings, train

BATCH_SIZE = 64
OBJECTIVES = ("distill", "unsup")
# What `--check` holds the score to: times the padded loop, and the rank correlation of heads and of neurons.
SPEED_FLOOR, AMX_SPEED_FLOOR, CORRELATION_FLOOR = 3.0, 4.0, 0.999
CORRELATIONS = ("head_correlation", "neuron_correlation")


def first_sentences(pairs: PairSet, count: int) -> PairSet:
    """The first pairs, so many that they have at least `count` distinct sentences; 0 for all."""
    if not count:
        return pairs
    end = next((n for n in range(1, len(pairs)) if len({*pairs.first[:n], *pairs.second[:n]}) >= count), len(pairs))
    scores = None if pairs.scores is None else pairs.scores[:end]
    return PairSet(pairs.name, pairs.split, pairs.first[:end], pairs.second[:end], scores, None, pairs.source)


def padded_scores(encoder: Encoder, pairs: PairSet) -> list[torch.Tensor]:
    """The paper's score as one writes it with hooks: heads of each layer, then neurons of each layer."""
    model, width = encoder.model, encoder.model.config.attention_head_size
    sentences = pairs.sentences()
    batches = [sentences[i : i + BATCH_SIZE] for i in range(0, len(sentences), BATCH_SIZE)]
    encoder.eval()
    with torch.no_grad():
        vectors = torch.cat([encoder(*encoder.collate(encoder.tokenize(batch))) for batch in batches])
    vectors.requires_grad_()
    unit = F.normalize(vectors, dim=-1)
    positives = torch.tensor(pairs.positives(4.0))
    align = (unit[positives[:, 0]] - unit[positives[:, 1]]).square().sum(dim=1).mean()
    uniform = torch.pdist(unit).square().mul(-2).exp().mean().log()
    (upstream,) = torch.autograd.grad(0.5 * align + 0.5 * uniform, vectors)

    heads: list[torch.Tensor] = []
    neurons: list[torch.Tensor] = []

    def head_hook(_: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        context = inputs[0].unflatten(-1, (-1, width))
        heads.append(torch.ones(len(context), context.shape[2], requires_grad=True))
        return ((context * heads[-1][:, None, :, None]).flatten(-2),)

    def neuron_hook(_: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        neurons.append(torch.ones(len(inputs[0]), inputs[0].shape[-1], requires_grad=True))
        return (inputs[0] * neurons[-1][:, None],)

    handles = []
    for layer in model.encoder.layer:
        handles.append(layer.attention.output.dense.register_forward_pre_hook(head_hook))
        handles.append(layer.output.dense.register_forward_pre_hook(neuron_hook))
    totals: list[torch.Tensor] = []
    for i, batch in enumerate(batches):
        heads.clear()
        neurons.clear()
        output = encoder(*encoder.collate(encoder.tokenize(batch)))
        gradients = torch.autograd.grad(output, [*heads, *neurons], upstream[i * BATCH_SIZE :][: len(batch)])
        sums = [gradient.abs().sum(dim=0) for gradient in gradients]
        totals = [a + b for a, b in zip(totals, sums, strict=True)] if totals else sums
    for handle in handles:
        handle.remove()
    return [total / len(sentences) for total in totals]


def padded_steps(encoder: Encoder, teacher: Encoder, sentences: list[str], objective: str) -> None:
    """One epoch of training steps as one writes them."""
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-5)
    encoder.train()
    for start in range(0, len(sentences), BATCH_SIZE):
        inputs = encoder.collate(encoder.tokenize(sentences[start : start + BATCH_SIZE]))
        if objective == "distill":
            with torch.no_grad():
                wanted = teacher(*inputs)
            loss = distillation(encoder(*inputs), wanted)
        else:
            loss = info_nce(encoder(*inputs), encoder(*inputs))
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    encoder.eval()


def our_steps(encoder: Encoder, teacher: Encoder, sentences: list[str], objective: str) -> None:
    """One epoch of `train`."""
    examples = [(sentence,) for sentence in sentences]
    settings = TrainingSettings(
        {objective: 1.0}, precision="float32", learning_rate=1e-5, batch_size=BATCH_SIZE, eval_every=10**9
    )
    train(encoder, examples, settings, teacher=teacher)


def in_turn(calls: dict[str, Callable[[], object]], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """The best seconds of each call, and what each returned last."""
    best = dict.fromkeys(calls, float("inf"))
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            results[name] = call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best, results


def rank_correlation(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Spearman's, over the structures of all layers."""
    ranks = [torch.cat(x).double().argsort().argsort().double() for x in (a, b)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def measure_score(encoder: Encoder, pairs: PairSet, rounds: int) -> list[dict[str, Any]]:
    precisions = ["float32"]
    if resolved_precision(encoder) != "float32":
        precisions.append(resolved_precision(encoder))
    calls: dict[str, Callable[[], object]] = {"padded loop": lambda: padded_scores(encoder, pairs)}
    for precision in precisions:
        calls[precision] = lambda precision=precision: contributions(encoder, pairs, precision=precision)
    seconds, results = in_turn(calls, rounds)
    layers = len(encoder.model.encoder.layer)
    expected = results["padded loop"]
    return [
        {
            "what": "score",
            "precision": precision,
            "padded_seconds": seconds["padded loop"],
            "seconds": seconds[precision],
            "times_faster": seconds["padded loop"] / seconds[precision],
            "head_correlation": rank_correlation(expected[:layers], list(results[precision].heads)),
            "neuron_correlation": rank_correlation(expected[layers:], list(results[precision].neurons)),
        }
        for precision in precisions
    ]


def measure_alone(encoder: Encoder, pairs: PairSet) -> dict[str, Any]:
    start = time.perf_counter()
    contributions(encoder, pairs, precision="float32")
    return {
        "what": "score, alone",
        "precision": "float32",
        "tokens": sum(map(len, encoder.tokenize(pairs.sentences()))),
        "seconds": time.perf_counter() - start,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,  # Linux counts in KiB
    }


def measure_training(source: str, sentences: list[str], steps: int, rounds: int) -> list[dict[str, Any]]:
    teacher = load_encoder(source)
    random.Random(0).shuffle(sentences)
    sentences = sentences[: steps * BATCH_SIZE]
    steps = len(sentences) // BATCH_SIZE
    rows = []
    for objective in OBJECTIVES:
        encoder = load_encoder(source)
        calls: dict[str, Callable[[], object]] = {
            "padded": lambda e=encoder, o=objective: padded_steps(e, teacher, sentences[: steps * BATCH_SIZE], o),
            "packed": lambda e=encoder, o=objective: our_steps(e, teacher, sentences[: steps * BATCH_SIZE], o),
        }
        seconds, _ = in_turn(calls, rounds)
        rows.append(
            {
                "what": f"training step, {objective}",
                "precision": "float32",
                "padded_seconds": seconds["padded"] / steps,
                "seconds": seconds["packed"] / steps,
                "times_faster": seconds["padded"] / seconds["packed"],
            }
        )
    return rows


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """The floors that the score misses, in the precision that it has by default."""
    row = [row for row in rows if row["what"] == "score"][-1]
    floor = AMX_SPEED_FLOOR if "amx_bf16" in machine()["instruction_sets"] else SPEED_FLOOR
    missed = []
    if row["times_faster"] < floor:
        missed.append(f"score is {row['times_faster']:.2f} times faster, floor {floor:g}")
    for name in CORRELATIONS:
        if row[name] < CORRELATION_FLOOR:
            missed.append(f"{name} of ranks is {row[name]:.5f}, floor {CORRELATION_FLOOR}")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--data", default="stsb", help="graded pairs, dev split")
    parser.add_argument("--data-dir", help="SentEval folder")
    parser.add_argument("--sentences", type=int, default=0, help="score about that many sentences only; 0 for all")
    parser.add_argument("--steps", type=int, default=8, help="training steps in a round")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3, help="the best time counts")
    parser.add_argument("--alone", action="store_true", help="only the score, once, and its peak memory")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    parser.add_argument("--check", action="store_true", help="exit 1 where the score misses a floor")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    source = str(stages.resolve_model(options.model))
    encoder = load_encoder(source)
    pairs = load_pairs(options.data, split="dev", data_dir=options.data_dir)
    pairs = first_sentences(pairs, options.sentences)
    about = {
        **machine(),
        "native_kernels": dispatch.native_extension() is not None,
        "versions": versions(),
        "threads": options.threads,
        "sentences": len(pairs.sentences()),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
        "load_before": os.getloadavg()[0],
    }
    print("  ".join(f"{key}: {value}" for key, value in about.items()))
    if options.alone:
        row = measure_alone(encoder, pairs)
        shown = {key: f"{value:.0f}" if isinstance(value, float) else value for key, value in row.items()}
        print("  ".join(f"{key}: {value}" for key, value in shown.items()))
        write_rows(options.json, about, [row])
        return 0
    print(f"{'':<24}{'precision':<10}{'padded s':>10}{'ours s':>10}{'ratio':>8}{'rank correlation':>20}")
    rows = measure_score(encoder, pairs, options.rounds)
    rows += measure_training(source, pairs.sentences(), options.steps, options.rounds)
    for row in rows:
        correlation = "  ".join(f"{row[name]:.5f}" for name in CORRELATIONS if name in row)
        print(
            f"{row['what']:<24}{row['precision']:<10}{row['padded_seconds']:>10.3f}{row['seconds']:>10.3f}"
            f"{row['times_faster']:>8.2f}{correlation:>20}"
        )
    write_rows(options.json, about, rows)
    return verdict(failures(rows) if options.check else [])


if __name__ == "__main__":
    sys.exit(main())
