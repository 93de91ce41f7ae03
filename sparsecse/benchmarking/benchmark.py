"""Time models and runtimes against each other: one process each, asked in turn, round after round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from sparsecse.benchmarking.machine import machine, versions
from sparsecse.benchmarking.report import BenchModel, BenchReport, BenchRow
from sparsecse.benchmarking.runtimes import PRECISIONS, RUNTIMES, Setup
from sparsecse.benchmarking.worker import ORDERS, TokenIds, Worker
from sparsecse.errors import InputError


def benchmark(
    models: Sequence[str | Path],
    sentences: Sequence[str],
    *,
    runtimes: Sequence[str] = ("sparsecse",),
    batch_sizes: Sequence[int] = (1, 32),
    orders: Sequence[str] = ORDERS,
    rounds: int = 5,
    threads: int | None = None,
    precision: str = "float32",
    load_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BenchReport:
    """Measure every model in every runtime on the CPU: speed, latency and memory from token ids to sentence vectors.

    Each pair of model and runtime has a process of its own, and only one works at a time: in every round, all of them
    embed all sentences at one batch size and order before the next one begins, so that a change of the machine's pace
    meets them all. A warm-up round comes first and is not counted. Tokenising is not measured; all the runtimes of a
    model get the same token ids.

    All the processes stay alive to the end, so that memory must suffice for all of them together. They are spawned: a
    script calls this below `if __name__ == "__main__":`.

    Args:
        models: folders or hub ids; the first one is what the others are compared with.
        sentences: at least as many as the largest batch size.
        runtimes: keys of `RUNTIMES`.
        batch_sizes: sentences in a batch; what is left of the last batch counts for the throughput, not the latency.
        orders: "given" fills the batches with sentences as they come, "sorted" by number of tokens, longest first.
        rounds: counted rounds.
        threads: processor threads of every runtime; by default torch's number.
        precision: one of `PRECISIONS`.
        load_options: options of `load_encoder` (pooling, max_length, ...), the same for every model.
        progress: called with the timings made so far and all that there will be, the warm-up's included.

    Raises:
        InputError: a value that is empty, repeated, unknown or out of range, a model that cannot be loaded, a runtime
            that is not installed, or a process that failed or died.
    """
    names = [str(model) for model in models]
    _check_choice("models", names)
    _check_choice("--runtimes", runtimes, RUNTIMES)
    _check_choice("--orders", orders, ORDERS)
    _check_choice("--precision", [precision], PRECISIONS)
    _check_choice("--batch-sizes", batch_sizes)
    _check_counts(len(sentences), batch_sizes, rounds, threads)

    # Not at the top of the module: every worker imports this package, and not every runtime needs torch in its memory.
    import torch

    threads = threads or torch.get_num_threads()
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    options = dict(load_options or {})
    prepared = {name: _prepare(name, sentences, options) for name in names}
    settings = [(batch_size, order) for batch_size in batch_sizes for order in orders]
    total = (rounds + 1) * len(settings) * len(runtimes) * len(names)
    done = 0
    with ExitStack() as stack:
        # The models compared in one runtime come one right after the other.
        workers = [
            stack.enter_context(Worker(runtime, RUNTIMES[runtime], Setup(name, precision, threads, options)))
            for runtime in runtimes
            for name in names
        ]
        for worker in workers:
            worker.load(prepared[worker.setup.source][1])
        for worker in workers:
            worker.wait_loaded()
        timings: dict[tuple[int, str, Worker], list[list[float]]] = {
            (*setting, worker): [] for setting in settings for worker in workers
        }
        for _ in range(rounds + 1):
            for (batch_size, order, worker), seconds in timings.items():
                seconds.append(worker.time(batch_size, order))
                done += 1
                if progress is not None:
                    progress(done, total)

    described = {name: model for name, (model, _) in prepared.items()}
    return BenchReport(
        rows=tuple(
            _row(worker, batch_size, order, seconds[1:], len(sentences), described[worker.setup.source])
            for (batch_size, order, worker), seconds in timings.items()
        ),
        sentences=len(sentences),
        rounds=rounds,
        machine={**machine(), "threads": threads},
        versions=versions(runtimes),
        date=date,
        models=described,
    )


def _check_choice(option: str, values: Sequence[Any], known: Sequence[str] | Mapping[str, Any] | None = None) -> None:
    if not values:
        raise InputError(f"{option}: none given; give at least one.")
    for position, value in enumerate(values):
        if known is not None and value not in known:
            raise InputError(f"{option}: '{value}' is not one of {', '.join(known)}.")
        if value in values[:position]:
            raise InputError(f"{option}: {value} is given twice; give it once.")


def _check_counts(num_sentences: int, batch_sizes: Sequence[int], rounds: int, threads: int | None) -> None:
    for option, count in (*(("--batch-sizes", size) for size in batch_sizes), ("--rounds", rounds)):
        if count < 1:
            raise InputError(f"{option}: {count} is less than 1; give a positive number.")
    if threads is not None and threads < 1:
        raise InputError(f"--threads: {threads} is less than 1; give a positive number, or leave it out.")
    if max(batch_sizes) > num_sentences:
        raise InputError(
            f"--batch-sizes: {max(batch_sizes)} is more than the {num_sentences} sentences to embed; "
            f"give more sentences or a smaller batch."
        )


def _prepare(source: str, sentences: Sequence[str], options: Mapping[str, Any]) -> tuple[BenchModel, TokenIds]:
    """Describe a model and tokenise with it, once for all its runtimes."""
    from sparsecse.encoders import load_encoder
    from sparsecse.packing import count_parameters

    encoder = load_encoder(source, **options)
    token_ids = encoder.tokenize(sentences)
    model = BenchModel(
        parameters=count_parameters(encoder.model),
        bytes_on_disk=_bytes_on_disk(Path(source)),
        tokens=sum(map(len, token_ids)),
    )
    return model, token_ids


def _bytes_on_disk(folder: Path) -> int | None:
    if not folder.is_dir():
        return None
    # sentence-transformers keeps the weights of its own modules in folders like 2_Dense.
    files = [*folder.glob("*.safetensors"), *folder.glob("[0-9]*_*/*.safetensors")]
    # A folder with both formats holds the same weights twice.
    files = files or list(folder.glob("pytorch_model*.bin"))
    return sum(path.stat().st_size for path in files)


def _row(
    worker: Worker,
    batch_size: int,
    order: str,
    seconds: Sequence[Sequence[float]],
    num_sentences: int,
    model: BenchModel,
) -> BenchRow:
    """Figures from the seconds of every batch of every counted round."""
    fastest = min(map(sum, seconds))
    full_batches = num_sentences // batch_size
    p50, p95 = np.percentile([batches[:full_batches] for batches in seconds], [50, 95]) * 1000
    return BenchRow(
        model=worker.setup.source,
        runtime=worker.runtime,
        precision=worker.setup.precision,
        batch_size=batch_size,
        order=order,
        sentences_per_second=num_sentences / fastest,
        tokens_per_second=model.tokens / fastest,
        p50_ms=float(p50),
        p95_ms=float(p95),
        peak_rss_mb=worker.peak_rss_mb,
        parameters=model.parameters,
        bytes_on_disk=model.bytes_on_disk,
    )
