"""Sentence vectors from our runtime and from what people use: speed, fidelity, and how near the machine's peak.

    python benchmarks/encode.py [--data-dir SENTEVAL] [--threads T] [--rounds R] [--json FILE] [--plot PNG] [--check]

Dense all-MiniLM-L6-v2 (the demo extra) on 256 sentences of 5 to 64 tokens, from the STS Benchmark's test set where it
is found, else the built-in demo. Four parts, every one interleaved: each round times all contenders in turn, and the
best round counts.

1. Token ids to vectors, every runtime and precision, a process each: batches of 32 as they come, batches of 32 sorted
   by length, one sentence at a time. Our rows get the same batches as everyone's.
2. Ours with all sentences in one call: the dense model, and a copy of it that has lost half of the heads and half of
   the neurons of every layer.
3. Text to array in one process: `Runtime.encode` against `SentenceTransformer.encode` with its defaults. What is not
   spent on token ids to vectors is the tokenizer's share.
4. Effective GFLOP/s of one call on all sentences against the GEMM peak. Only real tokens are counted: for a sentence of
   n tokens, a hidden size d and layers of h heads of size s and f neurons,

       flops = 2 * sum over layers of (n * (4 * d * h * s + 2 * d * f) + 2 * n^2 * h * s)

   which are the linear layers, and the scores and weighted sums of attention. The peak is that of prepacked oneDNN
   linear layers of the model's shapes at 540 tokens, in the same precision (int8: inputs quantised already, bfloat16
   out).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import best_times, prepacked_linear

from sparsecse import stages
from sparsecse.benchmarking import PRECISIONS, RUNTIMES, benchmark, machine, versions
from sparsecse.benchmarking.runtimes import combinations
from sparsecse.datasets import load_sentences
from sparsecse.encoders import Encoder, load_encoder, save_encoder
from sparsecse.pruning.masks import Mask
from sparsecse.pruning.surgery import prune

DATA = Path(__file__).parents[2] / "shared" / "data" / "senteval"
OURS = "sparsecse"
BATCH = 32
GEMM_TOKENS = 540

# What --check holds us to, with AMX and without it.
FLOORS = {
    "amx": {
        "sorted": {"float32": 1.5, "bfloat16": 2.5},
        "text": 8.0,
        "peak": {"bfloat16": 0.50},
        "single": 0.65,
    },
    "avx512": {
        "sorted": {"float32": 1.3, "bfloat16": 1.5, "int8": 1.5},
        "text": 4.0,
        "peak": {"float32": 0.70, "bfloat16": 0.70, "int8": 0.70},
        "single": 0.75,
    },
}
INT8_COSINE = 0.998
PRUNED_SPEEDUP, PRUNED_DEVIATION = 1.7, 0.15
# Two fidelities that differ by less are the same.
SAME_COSINE = 5e-5


def sample(encoder: Encoder, data_dir: Path, count: int) -> tuple[str, list[str]]:
    """Sentences of 5 to 64 tokens, the same ones every time, and where they are from."""
    if data_dir.is_dir():
        source, sentences = "STS Benchmark, test", load_sentences("stsb", split="test", data_dir=data_dir)
    else:
        source, sentences = "demo", load_sentences("demo")
    lengths = map(len, encoder.tokenize(sentences))
    fitting = [sentence for sentence, length in zip(sentences, lengths, strict=True) if 5 <= length <= 64]
    chosen = np.random.default_rng(0).permutation(len(fitting))[:count]
    return source, [fitting[i] for i in chosen]


def flops(encoder: Encoder, lengths: Sequence[int]) -> float:
    """Floating-point operations on sentences of these lengths in tokens; see the formula above."""
    config = encoder.model.config
    tokens, squares = sum(lengths), sum(n * n for n in lengths)
    total = 0
    for heads, neurons in config.layer_sizes():
        width = heads * config.attention_head_size
        total += tokens * (4 * config.hidden_size * width + 2 * config.hidden_size * neurons) + 2 * squares * width
    return 2.0 * total


def halved(encoder: Encoder) -> Encoder:
    """Without half of the heads and half of the neurons of every layer; which ones makes no difference to the speed."""
    sizes = encoder.model.config.layer_sizes()
    heads = tuple(torch.arange(heads) < heads // 2 for heads, _ in sizes)
    neurons = tuple(torch.arange(neurons) < neurons // 2 for _, neurons in sizes)
    return prune(encoder, Mask(heads, neurons))


def gemm(encoder: Encoder, precision: str) -> tuple[Callable[[], object], float]:
    """All linear layers of the model at 540 tokens, one after the other, and their floating-point operations."""
    config, calls, total = encoder.model.config, [], 0.0
    for heads, neurons in config.layer_sizes():
        width, hidden = heads * config.attention_head_size, config.hidden_size
        for rows, columns in ((3 * width, hidden), (hidden, width), (neurons, hidden), (hidden, neurons)):
            calls.append(_linear(rows, columns, precision))
            total += 2.0 * GEMM_TOKENS * rows * columns
    return lambda: [call() for call in calls], total


def _linear(rows: int, columns: int, precision: str) -> Callable[[], object]:
    if precision != "int8":
        return prepacked_linear(GEMM_TOKENS, rows, columns, getattr(torch, precision))
    quantised = torch.randint(0, 256, (GEMM_TOKENS, columns), dtype=torch.uint8)
    weight = torch.randint(-127, 128, (rows, columns), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, [GEMM_TOKENS, columns])
    scales, zeros = torch.full((rows,), 0.01), torch.zeros(rows, dtype=torch.int32)
    return lambda: torch.ops.onednn.qlinear_pointwise(
        quantised, 0.01, 128, packed, scales, zeros, None, 1.0, 0, torch.bfloat16, "none", [], ""
    )


def text_to_array(
    source: str, encoder: Encoder, sentences: list[str], precisions: Sequence[str], threads: int, rounds: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Parts 3 and 4, in this process: a row for each of our precisions, and what SentenceTransformer.encode does."""
    from sentence_transformers import SentenceTransformer

    from sparsecse.runtime import Runtime

    token_ids = encoder.tokenize(sentences)
    peer = SentenceTransformer(source, device="cpu")
    calls: dict[str, Callable[[], object]] = {
        "peer": lambda: peer.encode(sentences),
        "tokenizer": lambda: encoder.tokenize(sentences),
    }
    gemm_flops = {}
    for precision in precisions:
        runtime = Runtime(encoder, precision=precision, threads=threads)
        calls[f"text {precision}"] = lambda runtime=runtime: runtime.encode(sentences)
        calls[f"ids {precision}"] = lambda runtime=runtime: runtime.encode_ids(token_ids)
        calls[f"gemm {precision}"], gemm_flops[precision] = gemm(encoder, precision)
    seconds = best_times(calls, rounds, spell=0.3)
    work = flops(encoder, [len(ids) for ids in token_ids])
    rows = []
    for precision in precisions:
        text, ids = seconds[f"text {precision}"], seconds[f"ids {precision}"]
        gflops, peak = work / ids / 1e9, gemm_flops[precision] / seconds[f"gemm {precision}"] / 1e9
        rows.append(
            {
                "precision": precision,
                "sentences_per_second": len(sentences) / text,
                "times_sentence_transformers": seconds["peer"] / text,
                "tokenizer_share": max(0.0, 1 - ids / text),
                "gflops": gflops,
                "gemm_peak_gflops": peak,
                "share_of_peak": gflops / peak,
            }
        )
    about = {
        "sentence_transformers_encode_sentences_per_second": len(sentences) / seconds["peer"],
        "tokenizer_sentences_per_second": len(sentences) / seconds["tokenizer"],
    }
    return rows, about


def find(rows: Sequence[Mapping[str, Any]], **wanted: Any) -> list[Mapping[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def pruned_rows(rows: Sequence[Mapping[str, Any]], share: float) -> list[dict[str, Any]]:
    """Dense against halved, by precision; share: of the multiply-adds that are left."""
    found = []
    for dense in find(rows, model="dense"):
        (half,) = find(rows, model="halved", precision=dense["precision"])
        speedup = half["sentences_per_second"] / dense["sentences_per_second"]
        found.append(
            {
                "precision": dense["precision"],
                "dense_sentences_per_second": dense["sentences_per_second"],
                "halved_sentences_per_second": half["sentences_per_second"],
                "speedup": speedup,
                "multiply_adds": share,
                "time_against_multiply_adds": 1 / speedup / share,
            }
        )
    return found


def checks(report: Mapping[str, Any]) -> dict[str, tuple[bool, str]]:
    """Every floor by name: whether it holds, and what was reached."""
    instructions = report["machine"]["instruction_sets"]
    floors = FLOORS["amx" if "amx_bf16" in instructions else "avx512"]
    native = {"float32", "int8"}
    if {"amx_bf16", "avx512_bf16"} & set(instructions):
        native.add("bfloat16")
    found: dict[str, tuple[bool, str]] = {}

    def at_least(what: str, reached: float, floor: float) -> None:
        found[f"{what} >= {floor:g}"] = (reached >= floor, f"{reached:.3g}")

    def at_most(what: str, reached: float, limit: float) -> None:
        found[f"{what} <= {limit:g}"] = (reached <= limit, f"{reached:.3g}")

    by_speed = sorted(report["rows"], key=lambda row: -row["sentences_per_second"])
    batches = find(by_speed, batch_size=BATCH, order="sorted")
    for precision, floor in floors["sorted"].items():
        ours = find(batches, runtime=OURS, precision=precision)
        others = [row for row in find(batches, precision=precision) if row["runtime"] != OURS]
        if ours and others and precision in native:
            ratio = ours[0]["sentences_per_second"] / others[0]["sentences_per_second"]
            at_least(f"{precision}, sorted batches, times the best other ({others[0]['runtime']})", ratio, floor)
    for row in find(batches, runtime=OURS, precision="int8"):
        at_least("int8, cosine", row["cosine"], INT8_COSINE)
    single = find(by_speed, batch_size=1, order="given")
    others = [row for row in single if row["runtime"] != OURS]
    if others:
        best = others[0]
        ours = [row for row in find(single, runtime=OURS) if row["cosine"] >= best["cosine"] - SAME_COSINE]
        if ours:
            ratio = best["sentences_per_second"] / ours[0]["sentences_per_second"]
            what = f"batch 1, time of {ours[0]['precision']} against {best['runtime']} {best['precision']}"
            at_most(what, ratio, floors["single"])
    text = max(find(report["text"]), key=lambda row: row["times_sentence_transformers"])
    what = f"{text['precision']}, text to array, times SentenceTransformer.encode"
    at_least(what, text["times_sentence_transformers"], floors["text"])
    for row in report["text"]:
        if row["precision"] in floors["peak"] and row["precision"] in native:
            what = f"{row['precision']}, share of the GEMM peak"
            at_least(what, row["share_of_peak"], floors["peak"][row["precision"]])
    for row in report["pruned"]:
        if row["precision"] in native - {"int8"}:
            at_least(f"{row['precision']}, half of the model, speedup", row["speedup"], PRUNED_SPEEDUP)
            deviation = abs(row["time_against_multiply_adds"] - 1)
            at_most(f"{row['precision']}, half of the model, time off its multiply-adds", deviation, PRUNED_DEVIATION)
    return found


def show(report: Mapping[str, Any]) -> None:
    """The tables, on standard output."""
    print(f"{report['data']}: {report['sentences']} sentences, {report['tokens']} tokens, ", end="")
    print(f"{report['machine']['threads']} threads; {report['machine']['cpu']}")
    settings = {"as they come": (BATCH, "given"), "sorted": (BATCH, "sorted"), "batch 1": (1, "given")}
    print(f"\nSentences/s, batches of {BATCH} or 1   " + "".join(f"{name:>14}" for name in settings), end="")
    print(f"{'p50 ms':>9}{'p95 ms':>9}{'peak MB':>9}{'cosine':>10}")
    for pair in dict.fromkeys((row["runtime"], row["precision"]) for row in report["rows"]):
        rows = find(report["rows"], runtime=pair[0], precision=pair[1])
        by_setting = [find(rows, batch_size=size, order=order)[0] for size, order in settings.values()]
        memory = by_setting[0]["peak_rss_mb"] or float("nan")
        print(f"{pair[0]:24}{pair[1]:10}", end="")
        print("".join(f"{row['sentences_per_second']:14.0f}" for row in by_setting), end="")
        print(f"{by_setting[2]['p50_ms']:9.2f}{by_setting[2]['p95_ms']:9.2f}{memory:9.0f}", end="")
        print(f"{by_setting[1]['cosine']:10.5f}")
    print("p50 and p95 are those of batch 1, the cosine (mean, to PyTorch float32) that of the sorted batches.")
    for entry in report["skipped"]:
        print(f"skipped {entry['runtime']} {entry['precision'] or ''}: {entry['reason']}")
    print(f"\n{'all sentences in one call':26}{'dense sent/s':>14}{'half sent/s':>14}{'speedup':>9}{'time/madds':>12}")
    for row in report["pruned"]:
        print(f"{OURS:16}{row['precision']:10}{row['dense_sentences_per_second']:14.0f}", end="")
        print(f"{row['halved_sentences_per_second']:14.0f}{row['speedup']:8.2f}x", end="")
        print(f"{row['time_against_multiply_adds']:12.2f}")
    about = report["text_about"]
    print("\nText to array: SentenceTransformer.encode ", end="")
    print(f"{about['sentence_transformers_encode_sentences_per_second']:.0f} sentences/s; ", end="")
    print(f"the tokenizer alone {about['tokenizer_sentences_per_second']:.0f}")
    print(f"{'Runtime.encode':26}{'sent/s':>8}{'x ST':>7}{'tokenizer':>11}{'GFLOP/s':>9}{'peak':>7}{'share':>7}")
    for row in report["text"]:
        print(f"{OURS:16}{row['precision']:10}{row['sentences_per_second']:8.0f}", end="")
        print(f"{row['times_sentence_transformers']:7.2f}{row['tokenizer_share']:11.0%}{row['gflops']:9.0f}", end="")
        print(f"{row['gemm_peak_gflops']:7.0f}{row['share_of_peak']:7.0%}")


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Speed against fidelity, one point for each runtime and precision, on batches sorted by length."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = find(report["rows"], batch_size=BATCH, order="sorted")
    # float32 rows differ by rounding alone; below this line there is nothing to see.
    error = [max(1 - row["cosine"], 1e-7) for row in rows]
    colours = dict(zip(PRECISIONS, ("tab:blue", "tab:orange", "tab:green"), strict=True))
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for precision, colour in colours.items():
        points = sorted(
            (
                (row["sentences_per_second"], y, row["runtime"])
                for row, y in zip(rows, error, strict=True)
                if row["precision"] == precision
            ),
        )
        for rank, (x, y, runtime) in enumerate(points):
            ours = runtime == OURS
            axes.scatter(x, y, s=200 if ours else 50, marker="*" if ours else "o", color=colour, zorder=3)
            axes.annotate(
                runtime,
                (x, y),
                # Each label of a cluster has a line of its own; ours stands alone.
                xytext=(0, -20) if ours else (4, -16 - 14 * rank),
                textcoords="offset points",
                ha="center" if ours else "left",
                fontsize=9,
                fontweight="bold" if ours else "normal",
                color=colour,
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkB": 4},
            )
        axes.scatter([], [], color=colour, label=precision)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(max(1e-1, 3 * max(error)), 1e-8)  # exact is up
    ticks = [
        t
        for t in (100, 200, 500, 1000, 2000, 5000, 10000, 20000)
        if min(r["sentences_per_second"] for r in rows) / 2 < t < 2 * max(r["sentences_per_second"] for r in rows)
    ]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("sentences per second (faster is right)")
    axes.set_ylabel("1 - mean cosine to PyTorch float32 (closer is up; 1e-7 is rounding)")
    axes.set_title(
        f"all-MiniLM-L6-v2, {report['sentences']} sentences in batches of {BATCH} sorted by length\n"
        f"{report['machine']['threads']} threads, {report['machine']['cpu']}, {report['date'][:10]}",
        fontsize=10,
    )
    axes.grid(alpha=0.3)
    axes.legend(title="precision", loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a dense model; the floors are for the demo extra's MiniLM")
    parser.add_argument("--data-dir", type=Path, default=DATA, help="SentEval folder; without it, the built-in demo")
    parser.add_argument("--sentences", type=int, default=256)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write everything here as well")
    parser.add_argument("--plot", type=Path, help="draw speed against fidelity here")
    parser.add_argument("--check", action="store_true", help="exit 1 when a stated floor is missed")
    options = parser.parse_args()
    os.environ.setdefault("RAYON_NUM_THREADS", str(options.threads))  # the tokenizers'
    torch.set_num_threads(options.threads)
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    load = os.getloadavg()[0]

    source = stages.resolve_model(options.model)
    encoder = load_encoder(source)
    data, sentences = sample(encoder, options.data_dir, options.sentences)
    lengths = [len(ids) for ids in encoder.tokenize(sentences)]
    common: dict[str, Any] = {"rounds": options.rounds, "threads": options.threads}
    peers = benchmark([source], sentences, runtimes="all", precisions="all", batch_sizes=(BATCH, 1), **common).to_json()
    ours = [precision for runtime, precision in combinations([OURS], "all")[0]]
    with tempfile.TemporaryDirectory() as temporary:
        half = halved(encoder)
        save_encoder(half, Path(temporary))
        one_call: dict[str, Any] = {"batch_sizes": (len(sentences),), "orders": ("given",), **common}
        cut = benchmark([source, temporary], sentences, runtimes=[OURS], precisions=ours, **one_call).to_json()
    names = {source: "dense", temporary: "halved"}
    for row in (*peers["rows"], *cut["rows"]):
        row["model"] = names[row["model"]]
    text, about = text_to_array(source, encoder, sentences, ours, options.threads, options.rounds)
    report = {
        "data": data,
        "sentences": len(sentences),
        "tokens": sum(lengths),
        "rows": peers["rows"],
        "skipped": [{**entry, "model": names.get(entry["model"])} for entry in peers["skipped"]],
        "one_call": cut["rows"],
        "pruned": pruned_rows(cut["rows"], flops(half, lengths) / flops(encoder, lengths)),
        "text": text,
        "text_about": about,
        "machine": {**machine(), "threads": options.threads, "load_before": load},
        "versions": versions([package for spec in RUNTIMES.values() for package in spec.packages]),
        "date": date,
    }
    report["checks"] = {name: {"holds": holds, "reached": reached} for name, (holds, reached) in checks(report).items()}
    show(report)
    print()
    for name, check in report["checks"].items():
        print(f"{'ok' if check['holds'] else 'MISSED'}: {name}: {check['reached']}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.plot:
        plot(report, options.plot)
    return 0 if all(check["holds"] for check in report["checks"].values()) or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
