"""Time models and runtimes against each other: one process each, asked in turn, round after round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsecse.benchmarking.machine import machine, versions
from sparsecse.benchmarking.report import BenchModel, BenchReport, BenchRow
from sparsecse.benchmarking.runtimes import PRECISIONS, RUNTIMES, Setup, Skipped, combinations, function
from sparsecse.benchmarking.worker import ORDERS, TokenIds, Worker
from sparsecse.errors import InputError, meant
from sparsecse.files import weight_bytes
from sparsecse.processors import check_threads, default_threads

if TYPE_CHECKING:
    from sparsecse.encoders import Encoder


@dataclass(frozen=True)
class _Prepared:
    """One model, loaded in PyTorch.

    vectors: its float32 vectors [sentences, width], which every runtime's are compared with.
    """

    encoder: Encoder
    described: BenchModel
    token_ids: TokenIds
    vectors: np.ndarray


def benchmark(
    models: Sequence[str | Path],
    sentences: Sequence[str],
    *,
    runtimes: Sequence[str] | str = ("sparsecse",),
    batch_sizes: Sequence[int] = (1, 32),
    orders: Sequence[str] = ORDERS,
    rounds: int = 5,
    threads: int | None = None,
    precisions: Sequence[str] | str | Mapping[str, str] = ("float32",),
    load_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    converting: Callable[[int, int], None] | None = None,
) -> BenchReport:
    """Measure every model in every runtime on the CPU: speed, latency and memory from token ids to sentence vectors.

    Each model in each runtime and precision has a process of its own, and only one works at a time: in every round, all
    of them embed all sentences at one batch size and order before the next one begins, so that a change of the
    machine's pace meets them all. A warm-up round comes first and is not counted; its vectors give the cosine.
    Tokenising is not measured, nor is converting a model to a runtime's format; all the runtimes of a model get the
    same token ids.

    All the processes stay alive to the end, so that memory must suffice for all of them together.

    Args:
        models: folders or hub ids.
        sentences: at least as many as the largest batch size. OpenVINO's int8 is calibrated with them, too.
        runtimes: keys of `RUNTIMES`, or "all": those that are installed and can hold the model. The first model in the
            first runtime and precision is what the rest is compared with.
        batch_sizes: sentences in a batch; what is left of the last batch counts for the throughput, not the latency.
        orders: "given" fills the batches with sentences as they come, "sorted" by number of tokens, longest first.
        rounds: counted rounds.
        threads: processor threads of every runtime; by default torch's number, within `processors.available`.
        precisions: of `PRECISIONS`, or "all": those that a runtime has; or the one of each model, by its name.
        load_options: options of `load_encoder` (pooling, max_length, ...), the same for every model.
        progress: called with the timings made so far and all that there will be, the warm-up's included.
        converting: the same for the models that are first converted to a runtime's format.

    Raises:
        InputError: a value that is empty, repeated, unknown or out of range, a model that cannot be loaded, or a
            process that failed or died; and unless `runtimes` is "all", a runtime that is not installed, does not have
            the precision (unless `precisions` is "all") or cannot hold the model.
    """
    names = [str(model) for model in models]
    _check_choice("models", names)
    own = dict(precisions) if isinstance(precisions, Mapping) else {}
    precisions = tuple(dict.fromkeys(own.values())) if isinstance(precisions, Mapping) else precisions
    if runtimes != "all":
        _check_choice("runtimes", runtimes, RUNTIMES)
    if precisions != "all":
        _check_choice("precisions", precisions, PRECISIONS)
    _check_choice("orders", orders, ORDERS)
    _check_choice("batch_sizes", batch_sizes)
    _check_counts(len(sentences), batch_sizes, rounds, threads)
    pairs, skipped = combinations(runtimes, precisions)

    # Not at the top of the module: every worker imports this package, and not every runtime needs torch in its memory.
    import torch

    threads = threads or default_threads(torch.get_num_threads())
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    options = dict(load_options or {})
    prepared = {name: _prepare(name, sentences, options) for name in names}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="sparsecse-bench-")))
        setups: list[tuple[str, Setup]] = []
        # The models compared in one runtime come one right after the other.
        jobs = [(*pair, name) for pair in pairs for name in names if own.get(name, pair[1]) == pair[1]]
        converted = 0
        for runtime, precision, name in jobs:
            with _skipping(runtimes == "all", runtime, precision, name, skipped):
                place = folder / f"{runtime}-{names.index(name)}"
                file = _convert(runtime, prepared[name].encoder, precision, sentences, place)
                setups.append((runtime, Setup(name, precision, threads, options, file)))
            if RUNTIMES[runtime].convert is not None and converting is not None:
                converted += 1
                converting(converted, sum(RUNTIMES[each].convert is not None for each, *_ in jobs))
        starting = [stack.enter_context(Worker(runtime, RUNTIMES[runtime].loader, setup)) for runtime, setup in setups]
        for worker in starting:
            worker.load(prepared[worker.setup.source].token_ids)
        workers: list[Worker] = []
        for worker in starting:
            with _skipping(runtimes == "all", worker.runtime, worker.setup.precision, worker.setup.source, skipped):
                worker.wait_loaded()
                workers.append(worker)
        if not workers:
            raise InputError(f"No runtime can be measured: {skipped[-1].reason}.")

        turns = [(batch_size, order, worker) for batch_size in batch_sizes for order in orders for worker in workers]
        total, done = (rounds + 1) * len(turns), 0
        cosines: list[float] = []
        timings: list[list[list[float]]] = [[] for _ in turns]
        for counted in range(rounds + 1):
            for turn, (batch_size, order, worker) in enumerate(turns):
                if counted:
                    timings[turn].append(worker.time(batch_size, order))
                else:
                    model = prepared[worker.setup.source]
                    found = worker.vectors(batch_size, order)[..., : model.encoder.settings.truncate_dim]
                    cosines.append(_cosine(found, model.vectors, worker))
                done += 1
                if progress is not None:
                    progress(done, total)

    described = {name: model.described for name, model in prepared.items()}
    measured = [name for name in RUNTIMES if any(worker.runtime == name for worker in workers)]
    return BenchReport(
        rows=tuple(
            _row(worker, batch_size, order, seconds, len(sentences), described[worker.setup.source], cosine)
            for (batch_size, order, worker), seconds, cosine in zip(turns, timings, cosines, strict=True)
        ),
        sentences=len(sentences),
        rounds=rounds,
        machine={**machine(), "threads": threads},
        versions=versions([package for name in measured for package in RUNTIMES[name].packages]),
        date=date,
        models=described,
        skipped=tuple(skipped),
    )


@contextmanager
def _skipping(allowed: bool, runtime: str, precision: str, model: str, skipped: list[Skipped]) -> Iterator[None]:
    """Where it is allowed, note down an `InputError` as the reason to skip."""
    try:
        yield
    except InputError as error:
        if not allowed:
            raise
        skipped.append(Skipped(runtime, precision, model, str(error).rstrip(".")))


def _check_choice(option: str, values: Sequence[Any], known: Sequence[str] | Mapping[str, Any] | None = None) -> None:
    if not values:
        raise InputError(f"`{option}`: none given; give at least one.")
    for position, value in enumerate(values):
        if known is not None and value not in known:
            raise InputError(f"`{option}`: '{value}' is not one of {', '.join(known)}.{meant(value, known)}")
        if value in values[:position]:
            raise InputError(f"`{option}`: {value} is given twice; give it once.")


def _check_counts(num_sentences: int, batch_sizes: Sequence[int], rounds: int, threads: int | None) -> None:
    for option, count in (*(("batch_sizes", size) for size in batch_sizes), ("rounds", rounds)):
        if count < 1:
            raise InputError(f"`{option}` {count} is less than 1; give a positive number.")
    check_threads(threads)
    if max(batch_sizes) > num_sentences:
        raise InputError(
            f"`batch_sizes` {max(batch_sizes)} is more than the {num_sentences} sentences to embed; "
            f"give more sentences or a smaller batch."
        )


def _prepare(source: str, sentences: Sequence[str], options: Mapping[str, Any]) -> _Prepared:
    """Describe a model and tokenise with it, once for all its runtimes."""
    from sparsecse.benchmarking.runtime_pytorch import reference
    from sparsecse.encoders import load_encoder
    from sparsecse.packing import count_parameters

    encoder = load_encoder(source, **options)
    token_ids = encoder.tokenize(sentences)
    described = BenchModel(
        parameters=count_parameters(encoder),
        bytes_on_disk=weight_bytes(Path(source)),
        tokens=sum(map(len, token_ids)),
    )
    vectors = reference(encoder, token_ids)[:, : encoder.width()]
    return _Prepared(encoder, described, token_ids, vectors)


def _convert(runtime: str, encoder: Encoder, precision: str, sentences: Sequence[str], folder: Path) -> Path | None:
    convert = RUNTIMES[runtime].convert
    if convert is None:
        return None
    folder.mkdir(exist_ok=True)
    return function(convert)(encoder, precision, sentences, folder)


def _cosine(vectors: np.ndarray, expected: np.ndarray, worker: Worker) -> float:
    """Mean cosine of the rows; anything but as many finite vectors raises `InputError`."""
    if vectors.shape != expected.shape or not np.isfinite(vectors).all():
        found = "something else than numbers" if vectors.shape == expected.shape else list(vectors.shape)
        raise InputError(
            f"{worker.setup.source} in the runtime {worker.runtime}, {worker.setup.precision}: its vectors are {found} "
            f"instead of {list(expected.shape)}; leave out that runtime or that model."
        )
    a, b = vectors.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(lengths, 1e-30)).mean())


def _row(
    worker: Worker,
    batch_size: int,
    order: str,
    seconds: Sequence[Sequence[float]],
    num_sentences: int,
    model: BenchModel,
    cosine: float,
) -> BenchRow:
    """Figures from the seconds of every batch of every counted round."""
    rounds = [sum(batches) for batches in seconds]
    fastest = min(rounds)
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
        cosine=cosine,
        parameters=model.parameters,
        bytes_on_disk=model.bytes_on_disk,
        round_seconds=rounds,
    )
