"""The figures of a benchmark, as rows and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sparsecse.benchmarking.runtimes import Skipped


@dataclass(frozen=True)
class BenchRow:
    """One model in one runtime at one batch size and order.

    sentences_per_second, tokens_per_second: from the fastest round; tokens are real ones, without padding.
    p50_ms, p95_ms: latency of single full batches, over all counted rounds.
    peak_rss_mb: the most memory, in MiB, of the process that held this model and runtime alone, from its start and over
        all its rows: Python, the runtime, loading and every batch size; converting the model to the runtime's format
        came before. None where the system does not tell.
    cosine: mean over the sentences of the cosine to the vectors of our encoder in PyTorch, float32; measured on this
        row's batches, since padding and the company in a batch move int8.
    parameters, bytes_on_disk: as in `BenchModel`.
    round_seconds: what all sentences took in each counted round; those of one round of all rows belong together, as the
        machine's pace was then.
    """

    model: str
    runtime: str
    precision: str
    batch_size: int
    order: str
    sentences_per_second: float
    tokens_per_second: float
    p50_ms: float
    p95_ms: float
    peak_rss_mb: float | None
    cosine: float
    parameters: int
    bytes_on_disk: int | None
    round_seconds: list[float]


@dataclass(frozen=True)
class BenchModel:
    """A measured model.

    parameters: weights in all, whatever the precision.
    bytes_on_disk: size of the weight files in its folder; None for a hub id.
    tokens: of all the sentences by its own tokenizer, special tokens included.
    """

    parameters: int
    bytes_on_disk: int | None
    tokens: int


@dataclass(frozen=True)
class BenchReport:
    """What `benchmark` measured.

    rows: by batch size, order, runtime, precision and model, each as given, so that the models compared stand together.
    sentences, rounds: how many sentences were embedded in a round, and counted rounds (without the warm-up).
    machine, versions: see `benchmarking.machine`; `machine` has the `threads` used as well.
    date: when it began, ISO 8601 in UTC.
    models: by the name given, in that order.
    skipped: what of "all" was not measured, and why.
    """

    rows: tuple[BenchRow, ...]
    sentences: int
    rounds: int
    machine: dict[str, Any]
    versions: dict[str, str]
    date: str
    models: dict[str, BenchModel]
    skipped: tuple[Skipped, ...] = ()

    def speedup(self, row: BenchRow) -> float:
        """Sentences per second of a row relative to the first row of the same batch size and order.

        That one is the first model in the first runtime and precision: with one runtime and precision the models are
        compared, with one model the runtimes, and with several of both everything with one base.
        """
        base = next(r for r in self.rows if (r.batch_size, r.order) == (row.batch_size, row.order))
        return row.sentences_per_second / base.sentences_per_second

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`; each row has its `speedup`, and `tokens` are the first model's."""
        return {
            "rows": [{**asdict(row), "speedup": self.speedup(row)} for row in self.rows],
            "sentences": self.sentences,
            "tokens": next(iter(self.models.values())).tokens,
            "rounds": self.rounds,
            "machine": self.machine,
            "versions": self.versions,
            "date": self.date,
            "models": {name: asdict(model) for name, model in self.models.items()},
            "skipped": [asdict(skipped) for skipped in self.skipped],
        }
