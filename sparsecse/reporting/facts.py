"""What a report tells of a run, as plain data: `stages.report` gathers it; page, plots and command line show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DIFFERENCE, PERCENT, RATIO = "difference", "percent", "ratio"
"""How the change of a figure is told: `+0.32`, `-4.1 %`, `1.07x`."""


@dataclass(frozen=True)
class Row:
    """A figure of the dense and of the pruned model.

    dense, pruned: None where there is none. digits: after the point.
    count: of the examples, where there is one. minor: it belongs to the row above.
    change: how the change is told. better: 1 where more is better, -1 where less is, 0 where neither.
    """

    name: str
    dense: float | None
    pruned: float | None
    digits: int = 2
    count: str = ""
    minor: bool = False
    change: str = DIFFERENCE
    better: int = 1

    @property
    def difference(self) -> float | None:
        """Pruned minus dense; None where one is missing."""
        return None if self.dense is None or self.pruned is None else self.pruned - self.dense

    def text(self, value: float | None) -> str:
        """One of the two figures in words; `-` for none."""
        return "-" if value is None else f"{value:,.{self.digits}f}"

    @property
    def change_text(self) -> str:
        """The change with its sign; empty where there is none."""
        if self.dense is None or self.pruned is None:
            return ""
        if self.change == DIFFERENCE:
            return f"{self.pruned - self.dense:+.{self.digits}f}"
        if not self.dense:
            return ""
        ratio = self.pruned / self.dense
        return f"{ratio:.2f}x" if self.change == RATIO else f"{100 * (ratio - 1):+.1f} %"

    @property
    def verdict(self) -> int:
        """1 where the change, as it is told, is for the better, -1 for the worse, 0 for neither."""
        found, text = self.difference, self.change_text
        if found is None or text == "1.00x" or not any(sign in "123456789" for sign in text):
            return 0
        return self.better if found > 0 else -self.better


@dataclass(frozen=True)
class Kind:
    """The tasks of one kind; measure: what their figures are. average: their mean, where there are several."""

    title: str
    measure: str
    rows: tuple[Row, ...]
    average: Row | None = None

    @property
    def total(self) -> Row | None:
        """The average, where there is more than one task."""
        return self.average if sum(not row.minor for row in self.rows) > 1 else None

    def tasks(self) -> list[Row]:
        """The figure that each task is judged by, and the average of several."""
        main = [row for row in self.rows if not row.minor]
        return main if self.total is None else [*main, self.total]

    @property
    def headline(self) -> Row:
        """The one figure that stands for the kind."""
        return self.average or self.rows[0]


@dataclass(frozen=True)
class Plane:
    """Both models by (alignment, uniformity) on a task; pairs from the score `positive_minimum` on are positive."""

    task: str
    positive_minimum: float
    dense: tuple[float, float]
    pruned: tuple[float, float]

    @property
    def rows(self) -> list[Row]:
        """Alignment and uniformity, each before and after."""
        both = zip(("alignment", "uniformity"), self.dense, self.pruned, strict=True)
        return [Row(name, before, after, 4, better=-1) for name, before, after in both]


@dataclass(frozen=True)
class Line:
    """A line of a curve: its name and its points (sparsity, points above dense, low, high), all x100."""

    name: str
    points: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Curve:
    """Quality against the sparsity, as changes from dense.

    title, measured: what was measured, and on what. header, rows: the table. chosen: the sparsity taken, in percent.
    tolerance: points that may be lost. words: how many of the table's columns hold no numbers.
    """

    title: str
    measured: str
    lines: tuple[Line, ...]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    chosen: float | None = None
    tolerance: float | None = None
    words: int = 1


@dataclass(frozen=True)
class Cut:
    """What stays: a row of marks per layer, and the scores where there were any.

    heads, neurons: for each layer whether each head stays, and (kept, all) of the neurons.
    gone: the layers that left whole.
    scores: for each layer the score of each head, by `method`; empty without scores.
    asked: what was asked and what was removed, in words.
    """

    heads: tuple[tuple[bool, ...], ...]
    neurons: tuple[tuple[int, int], ...]
    gone: frozenset[int] = frozenset()
    scores: tuple[tuple[float, ...], ...] = ()
    method: str = ""
    asked: str = ""

    def counts(self) -> tuple[int, int, int, int]:
        """Heads kept and in all, neurons kept and in all."""
        return (
            sum(map(sum, self.heads)),
            sum(map(len, self.heads)),
            sum(kept for kept, _ in self.neurons),
            sum(size for _, size in self.neurons),
        )


@dataclass(frozen=True)
class StageFacts:
    """A finished stage, of its record; state: why it is stale or damaged, or empty."""

    name: str
    created: str
    seconds: float
    command: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    state: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that is told of a run; what was not measured is empty, and `missing` says how to measure it.

    model: the dense model as the run names it. stage: that of the newest model, None where nothing was pruned.
    repair: what the training did, in a sentence.
    agreement: `Agreement.to_json()` with its `data`. bench: `BenchReport.to_json()`.
    sizes: parameters and bytes. vocabulary: `VocabularyReport.to_json()`.
    warnings: what a reader must know before anything else. missing: (what, how to measure it).
    """

    model: str
    stage: str | None
    stages: tuple[StageFacts, ...]
    quality: tuple[Kind, ...] = ()
    plane: Plane | None = None
    agreement: Mapping[str, Any] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    cut: Cut | None = None
    bench: Mapping[str, Any] = field(default_factory=dict)
    sizes: tuple[Row, ...] = ()
    vocabulary: Mapping[str, Any] = field(default_factory=dict)
    repair: str = ""
    warnings: tuple[str, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
    tasks_left_out: tuple[str, ...] = ()

    def commands(self) -> list[tuple[str, list[str]]]:
        """Each command of the command line that finished stages, in their order of time, with those stages."""
        found: dict[str, list[str]] = {}
        for stage in sorted(self.stages, key=lambda stage: stage.created):
            if stage.command:
                found.setdefault(stage.command, []).append(stage.name)
        return list(found.items())

    def timed(self) -> list[tuple[str, list[tuple[str, Mapping[str, Any]]]]]:
        """The rows of the benchmark by `batch 32, sorted`, each with its model, runtime and precision if these vary."""
        rows = self.bench.get("rows", ())
        varied = [name for name in ("runtime", "precision") if len({row[name] for row in rows}) > 1]
        groups: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
        for row in rows:
            model = "dense" if row["model"] == "dense" else "pruned"
            label = ", ".join([model, *(row[name] for name in varied)])
            groups.setdefault(f"batch {row['batch_size']}, {row['order']}", []).append((label, row))
        return list(groups.items())

    def speeds(self) -> list[Row]:
        """Sentences per second of both models, in the first runtime and precision."""
        found = []
        for group, timed in self.timed():
            first = timed[0][1]
            same = [row for _, row in timed if all(row[name] == first[name] for name in ("runtime", "precision"))]
            if len(same) == 2:
                before, after = (row["sentences_per_second"] for row in same)
                found.append(Row(f"sentences/s, {group}", before, after, 0, change=RATIO))
        return found

    def summary(self) -> list[Row]:
        """The figures that a reader looks for first."""
        rows = [kind.headline for kind in self.quality]
        if self.plane is not None:
            rows += self.plane.rows
        if self.agreement:
            rows.append(Row("agreement with dense", None, self.agreement["similarity_spearman"], 4))
        return [*rows, *self.speeds(), *self.sizes]
