"""Quality and bytes of packed forms of one model: free and portable, with a smaller vocabulary, in each storage type.

python benchmarks/packing.py --data-dir SENTEVAL --vocab sentences.txt.gz [--json FILE] [--check]
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from sparsecse import stages
from sparsecse.benchmarking import machine, versions
from sparsecse.datasets import load_pairs
from sparsecse.encoders import Encoder, load_encoder
from sparsecse.evaluation import evaluate
from sparsecse.packing import CardFacts, count_parameters, pack
from sparsecse.pruning.masks import Budget, Mask, select, select_portable
from sparsecse.pruning.surgery import prune
from sparsecse.scoring import contributions
from sparsecse.vocabulary import Corpus, fit_vocabulary

TASKS = "sts12,sts14,sts15,stsb-test"


def multiply_adds(encoder: Encoder) -> int:
    """Multiply-adds per token of the projections of all layers (attention scores and sums left out)."""
    config = encoder.model.config
    head, neuron = 4 * config.hidden_size * config.attention_head_size, 2 * config.hidden_size
    return sum(heads * head + neurons * neuron for heads, neurons in config.layer_sizes())


def write(encoder: Encoder, mask: Mask, dense: Encoder, folder: Path, dtype: str) -> int:
    """Pack into a folder; returns its bytes."""
    parameters, before = count_parameters(encoder.model), count_parameters(dense.model)
    facts = CardFacts("model", mask.sizes(), mask.kept(), parameters, before, encoder.settings.pooling)
    return pack(encoder, folder, facts, dtype=dtype)["bytes"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--vocab", required=True)
    parser.add_argument("--vocab-size", type=int, default=14000)
    parser.add_argument("--sparsity", type=float, default=0.2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 when a stated bound is missed")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    dense = load_encoder(stages.resolve_model(arguments.model))
    source = Path(stages.resolve_model(arguments.model))
    dense_bytes = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    scores = contributions(dense, load_pairs("stsb", data_dir=arguments.data_dir))
    free_mask = select(scores, Budget.of(scores.sizes(), sparsity=arguments.sparsity))
    free = prune(dense, free_mask)
    # The portable form at the same multiply-adds: it has to take from the neurons what the heads do not give.
    layers, neurons = len(scores.sizes()), scores.sizes()[0][1]
    removed = multiply_adds(dense) - multiply_adds(free)
    portable_mask = select_portable(scores, removed / (2 * dense.model.config.hidden_size * layers * neurons))
    portable = prune(dense, portable_mask)
    corpus = Corpus([arguments.vocab])
    all_tokens, all_report = fit_vocabulary(dense, corpus)
    few_tokens, few_report = fit_vocabulary(dense, corpus, arguments.vocab_size)

    few = f"free, {arguments.vocab_size} tokens"
    forms = {
        "dense": (dense, None, TASKS),
        "free": (free, free_mask, TASKS),
        "portable": (portable, portable_mask, TASKS),
        "free, corpus tokens": (prune(all_tokens, free_mask), free_mask, "stsb-test"),
        few: (prune(few_tokens, free_mask), free_mask, "stsb-test"),
    }
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, (encoder, mask, tasks) in forms.items():
            for dtype in ("float32", "int8") if "tokens" in name else ("float32",):
                folder, size = Path(temporary) / f"{len(rows)}", dense_bytes
                measured = encoder
                if mask is not None:
                    size = write(encoder, mask, dense, folder, dtype)
                    measured = load_encoder(folder)
                result = evaluate(measured, tasks, data_dir=arguments.data_dir)
                rows.append(
                    {
                        "form": name,
                        "dtype": dtype,
                        "tokens": encoder.model.config.vocab_size,
                        "multiply_adds": multiply_adds(encoder),
                        "bytes": size,
                        "bytes_share": size / dense_bytes,
                        "stsb_test": result.tasks["stsb-test"].spearman,
                        "sts_mean": result.average if tasks == TASKS else None,
                    }
                )
    print(f"{'form':22} {'dtype':8} {'tokens':>6} {'MMAC':>6} {'bytes':>11} {'share':>6} {'STS-B':>6} {'STS mean':>8}")
    for row in rows:
        mean = "-" if row["sts_mean"] is None else f"{row['sts_mean']:.2f}"
        print(
            f"{row['form']:22} {row['dtype']:8} {row['tokens']:6} {row['multiply_adds'] / 1e6:6.2f} {row['bytes']:11,} "
            f"{row['bytes_share']:6.1%} {row['stsb_test']:6.2f} {mean:>8}"
        )
    if arguments.json:
        report = {
            "rows": rows,
            "vocabulary": {"corpus": all_report.to_json(), str(arguments.vocab_size): few_report.to_json()},
            "machine": {**machine(), "threads": arguments.threads},
            "versions": versions(),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    found = {(row["form"], row["dtype"]): row for row in rows}
    whole, little = (found[(name, "float32")] for name in ("free, corpus tokens", few))
    small, smaller = (found[(name, "int8")] for name in ("free, corpus tokens", few))
    before = found[("dense", "float32")]["stsb_test"]
    checks = {
        "corpus tokens: at most 82 % of the bytes, STS-B at or above dense": whole["bytes_share"] <= 0.82
        and whole["stsb_test"] >= before,
        "few tokens: at most 66 % of the bytes, STS-B within 0.3": little["bytes_share"] <= 0.66
        and little["stsb_test"] >= before - 0.3,
        "int8: at most 22 % and 18 %, within 0.5 of float32": small["bytes_share"] <= 0.22
        and smaller["bytes_share"] <= 0.18
        and abs(small["stsb_test"] - whole["stsb_test"]) <= 0.5
        and abs(smaller["stsb_test"] - little["stsb_test"]) <= 0.5,
    }
    for name, holds in checks.items():
        print(f"{'ok' if holds else 'MISSED'}: {name}")
    return 0 if all(checks.values()) or not arguments.check else 1


if __name__ == "__main__":
    sys.exit(main())
