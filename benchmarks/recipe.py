"""What the default recipe keeps: similarity, classification, retrieval, and retrieval in the dense model's index.

The model is scored on STS-B dev, pruned, repaired on text without labels and measured on sets that chose nothing.

    python benchmarks/recipe.py demo --data-dir SENTEVAL --train-data passages.txt.gz --train-data captions.txt.gz \\
        --retrieval cisi --retrieval npl --sparsities 0.2,0.5 --steps 250 --json recipe.json
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch

import sparsecse
from sparsecse.benchmarking import machine, versions
from sparsecse.datasets import draw_retrieval, load_retrieval, load_sentences
from sparsecse.evaluation import evaluate
from sparsecse.evaluation.agreement import model_agreement
from sparsecse.evaluation.embedding import Remembered
from sparsecse.evaluation.retrieval import retrieval
from sparsecse.training import TrainingSettings

TASKS = "sts12,sts14,sts15,stsb-test"
SAMPLE = 1000  # sentences of the agreement, none of them trained on


def mixture(files: list[str], each: int) -> tuple[list[str], list[str]]:
    """Training sentences, as many of each file, in random order; and others for the agreement."""
    generator = random.Random(0)
    training: list[str] = []
    others: list[str] = []
    for name in files:
        sentences = load_sentences(name)
        generator.shuffle(sentences)
        training += sentences[:each]
        others += sentences[each : each + SAMPLE // len(files)]
    generator.shuffle(training)
    return training, others


class Measure:
    """Means x100 over the similarity tasks and over the retrieval sets, of one model after the other."""

    def __init__(self, dense: sparsecse.Encoder, arguments: argparse.Namespace, held_out: list[str]):
        self.arguments = arguments
        self.dense = Remembered(lambda: dense, dense.settings)
        self.held_out = held_out
        sets = [load_retrieval(folder) for folder in arguments.retrieval]
        self.sets = [draw_retrieval(one, arguments.documents, len(one)) for one in sets]

    def __call__(self, encoder: sparsecse.Encoder | None = None) -> dict[str, Any]:
        """The figures of an encoder, or of the dense model, whose vectors are kept."""
        runtime = self.dense if encoder is None else Remembered(lambda: encoder, encoder.settings)
        tasks = ",".join([TASKS, *self.arguments.classification])
        found = evaluate(runtime, tasks, data_dir=self.arguments.data_dir)
        result: dict[str, Any] = {Path(name).name: value for name, value in found.figures().items()}
        result["similarity"] = found.average
        result["classification"] = found.own_average("classification")
        for index, label in ((None, ""), *([(self.dense, " aligned")] if encoder else [])):
            values = {task.name: retrieval(task, runtime, index).ndcg_at_10 for task in self.sets}
            result |= {f"{name}{label}": value for name, value in values.items()}
            if values:
                result[f"retrieval{label}"] = sum(values.values()) / len(values)
        result["agreement"] = model_agreement(runtime, self.dense, self.held_out).to_json()
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--data-dir", required=True, help="SentEval folder, with STS-B dev and the test sets")
    parser.add_argument("--train-data", action="append", required=True, help="text of one kind; repeatable")
    parser.add_argument("--each", type=int, default=13_000, help="sentences of each kind")
    parser.add_argument("--retrieval", action="append", default=[], help="folder in BEIR's layout; repeatable")
    parser.add_argument("--classification", action="append", default=[], help="labelled train and test; repeatable")
    parser.add_argument("--documents", type=int, default=3500, help="of larger collections as many are drawn")
    parser.add_argument("--sparsities", default="0.2,0.5")
    parser.add_argument("--repair", choices=["yes", "no", "both"], default="both")
    parser.add_argument("--within-layers", choices=["scores", "error"], default="scores", help="see `Recipe`")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--learning-rate", type=float, default=TrainingSettings().learning_rate)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    dense = sparsecse.load_encoder(arguments.model)
    training, held_out = mixture(arguments.train_data, arguments.each)
    measure = Measure(dense, arguments, held_out)
    report: dict[str, Any] = {
        "machine": machine(),
        "versions": versions(),
        "settings": _without_folders(arguments),
        "models": {"dense": measure()},
    }
    print("dense", _line(report["models"]["dense"]), flush=True)
    start = time.monotonic()
    scores = sparsecse.score(dense, "stsb", data_dir=arguments.data_dir)
    report["minutes of scoring"] = (time.monotonic() - start) / 60
    for sparsity in map(float, arguments.sparsities.split(",")):
        for repair in [False, True] if arguments.repair == "both" else [arguments.repair == "yes"]:
            start = time.monotonic()
            small = sparsecse.compress(
                dense,
                sparsity,
                data="stsb",
                data_dir=arguments.data_dir,
                scores=scores,
                train_data=training,
                steps=arguments.steps,
                training=TrainingSettings(learning_rate=arguments.learning_rate),
                repair=repair,
                within_layers=arguments.within_layers,
                step_progress=lambda report: print(report.step, report.dev, flush=True) if report.dev else None,
            )
            minutes = (time.monotonic() - start) / 60
            label = f"{sparsity:g}" + ("" if repair else " reconstructed")
            report["models"][label] = {**measure(small), "minutes": minutes}
            print(label, _line(report["models"][label]), f"{minutes:.1f} min", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def _without_folders(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments for the record, files and folders by their names alone."""
    found = {**vars(arguments), "json": None, "data_dir": Path(arguments.data_dir).name}
    return found | {
        key: [Path(each).name for each in found[key]] for key in ("train_data", "retrieval", "classification")
    }


def _line(result: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in result.items() if isinstance(value, float))


if __name__ == "__main__":
    sys.exit(main())
