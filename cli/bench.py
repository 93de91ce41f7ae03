"""`sparsecse bench`: models timed against each other on the same sentences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsecse.cli import options
from sparsecse.cli.groups import takes
from sparsecse.cli.output import note, progress, show
from sparsecse.cli.session import DEFAULT_WORKDIR, session, set_threads
from sparsecse.errors import InputError
from sparsecse.settings import split_list, split_numbers
from sparsecse.sources import DataOptions, ModelOptions

Models = Annotated[
    list[str] | None,
    typer.Argument(help="Models, the one to compare with first; by default the dense and the newest of the run."),
]
Runtimes = Annotated[
    str,
    typer.Option(
        "--runtimes",
        help="Comma list of pytorch, sentence-transformers, onnxruntime, openvino, ctranslate2, sparsecse; "
        "all: those that are installed.",
    ),
]
BatchSizes = Annotated[str, typer.Option("--batch-sizes", help="Comma list of sentences per batch.")]
Orders = Annotated[str, typer.Option("--orders", help="given: batches as they come; sorted: by length; or both.")]
Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Counted rounds; the fastest gives the throughput.")]
BenchPrecision = Annotated[
    str,
    typer.Option("--precision", help="Comma list of float32, bfloat16, int8; all: those that each runtime has."),
]


@takes(reading=DataOptions(), loading=ModelOptions())
def bench(
    models: Models = None,
    *,
    data: options.TimedData = "demo",
    sentences: options.Count = 256,
    reading: DataOptions,
    runtimes: Runtimes = "sparsecse",
    batch_sizes: BatchSizes = "1,32",
    orders: Orders = "given,sorted",
    rounds: Rounds = 5,
    precision: BenchPrecision = "float32",
    loading: ModelOptions,
    threads: options.Threads = None,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Time models and runtimes in turn, round after round, each in a process of its own.

    Throughput, latency, memory, size, and the mean cosine to the vectors of PyTorch in float32. All get the same token
    ids and threads. The speedup is against the first row of the same batch size and order: the first model in the first
    runtime and precision.
    """
    from sparsecse import stages
    from sparsecse.cli.tables import BenchTable, size_table, skip_notes
    from sparsecse.datasets import load_sentences

    texts = load_sentences(data, columns=reading.columns, split=reading.split, data_dir=reading.data_dir)[:sentences]
    settings: dict[str, Any] = {
        "runtimes": runtimes if runtimes == "all" else split_list(runtimes),
        "batch_sizes": split_numbers("batch_sizes", batch_sizes),
        "orders": split_list(orders),
        "rounds": rounds,
        "threads": threads,
        "precisions": precision if precision == "all" else split_list(precision),
    }
    if models:
        set_threads(threads)
        labels = {name: Path(name).name if Path(name).exists() else name for name in models}
        if len(set(labels.values())) < len(models):
            labels = {name: name for name in models}
        if len(labels) < len(models):
            raise InputError("A model is named twice; give each model once.")
        chosen = {labels[name]: replace(loading, name=stages.resolve_model(name)) for name in models}
        report = stages.bench_models(chosen, texts, progress=progress, **settings)
    else:
        with session(workdir, threads) as run:
            record, _ = stages.bench_run(run, texts, truncate_dim=loading.truncate_dim, progress=progress, **settings)
        report = dict(record.info)
    for line in skip_notes(report):
        note(line)
    show(json, report, BenchTable(report), size_table(report["models"]))
