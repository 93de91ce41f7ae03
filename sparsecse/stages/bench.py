"""Stage `bench`: the dense and the pruned model of a run directory, timed in turn on the same sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsecse.benchmarking import RUNTIMES, benchmark
from sparsecse.errors import InputError
from sparsecse.files import texts_hash, write_json
from sparsecse.progress import Progress, silent
from sparsecse.sources import ModelOptions
from sparsecse.stages.models import dense_hash, dense_options, load_dense, model_input
from sparsecse.stages.options import resolve_model
from sparsecse.workdir import Record, Workdir


def bench_models(
    models: Mapping[str, ModelOptions],
    sentences: Sequence[str],
    *,
    runtimes: Sequence[str] | str = ("sparsecse",),
    batch_sizes: Sequence[int] = (1, 32),
    orders: Sequence[str] = ("given", "sorted"),
    rounds: int = 5,
    threads: int | None = None,
    precisions: Sequence[str] | str | Mapping[str, str] = ("float32",),
    progress: Progress = silent,
) -> dict[str, Any]:
    """Time models against each other; models: label -> model; the rest as in `benchmarking.benchmark`.

    Returns:
        `BenchReport.to_json()` with labels for names.
    """
    loads = [{k: v for k, v in options.settings().items() if k != "name"} for options in models.values()]
    if any(load != loads[0] for load in loads[1:]):
        raise InputError(
            "The benchmarked models must share `pooling`, `normalize`, `max_length`, `prompt` and `truncate_dim`."
        )
    names = {resolve_model(options.name): label for label, options in models.items()}
    if isinstance(precisions, Mapping):
        precisions = {name: precisions[label] for name, label in names.items()}
    report = benchmark(
        list(names),
        sentences,
        runtimes=runtimes,
        batch_sizes=batch_sizes,
        orders=orders,
        rounds=rounds,
        threads=threads,
        precisions=precisions,
        load_options=loads[0],
        progress=progress("Timing"),
        converting=progress("Converting"),
    ).to_json()
    for entry in (*report["rows"], *report["skipped"]):
        entry["model"] = names.get(entry["model"])
    report["models"] = {names[name]: facts for name, facts in report["models"].items()}
    return report


def bench_run(
    workdir: Workdir,
    sentences: Sequence[str],
    *,
    truncate_dim: int | None = None,
    progress: Progress = silent,
    **options: Any,
) -> tuple[Record, bool]:
    """Time the dense and the newest pruned model of a run directory; options as those of `bench_models`.

    truncate_dim: values kept of the vectors that are compared; by default as many as the dense model keeps.
    """
    stage, _ = workdir.newest_model()
    inputs = {
        "model": dense_hash(workdir),
        **model_input(workdir, stage),
        "data": texts_hash(sentences),
    }
    # The pruned folder names its own pooling; the dense one may need what it was scored with.
    own = dense_options(workdir)
    if truncate_dim is not None:
        own = replace(own, truncate_dim=truncate_dim)
    pruned = replace(own, name=str(workdir.folder(stage) / "model"))

    def work(folder: Path) -> Mapping[str, Any]:
        load_dense(workdir)  # refuses one that is not the recorded one any more
        report = bench_models({"dense": own, stage: pruned}, sentences, progress=progress, **options)
        write_json(folder / "results.json", report)
        return report

    settings = {**options, **({} if truncate_dim is None else {"truncate_dim": truncate_dim})}
    if options.get("runtimes") == "all":  # a runtime that is installed later is worth another run
        settings["installed"] = [name for name, runtime in RUNTIMES.items() if not runtime.missing()]
    return workdir.run_stage("bench", inputs, settings, work)
