"""Tables for people: what the stages found, as rich renderables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sparsecse.benchmarking import RUNTIMES
from sparsecse.checking import Verdict
from sparsecse.guard import figures_text
from sparsecse.pruning.masks import lowest
from sparsecse.reporting.facts import Row
from sparsecse.reporting.notes import budget_line
from sparsecse.reporting.quality import RERANKING, RETRIEVAL, agreement_rows
from sparsecse.scoring import Scores

SPARSITIES = (0.01, 0.05, 0.10, 0.20, 0.50)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    return table


def rows_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of ready-made cells."""
    table = _table(title, header)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def settings_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], settings: int) -> Table:
    """A table whose first columns are so many settings, in lines of their own where they are long, then figures."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(header):
        figure = number >= settings
        table.add_column(name, justify="right" if figure else "left", no_wrap=figure, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def score_table(scores: Scores) -> Table:
    """Per layer: how many of its heads and neurons are among the lowest 1, 5, 10, 20 and 50 % of all."""
    percents = [f"{sparsity:.0%}" for sparsity in SPARSITIES]
    table = _table(
        "Heads and neurons of each layer among the lowest ... of all",
        ["layer", "heads", *percents, "neurons", *percents],
    )
    counts = {
        kind: [
            [int(mark.sum()) for mark in lowest(layers, round(sparsity * sum(map(len, layers))))]
            for sparsity in SPARSITIES
        ]
        for kind, layers in (("heads", scores.heads), ("neurons", scores.neurons))
    }
    for layer, (heads, neurons) in enumerate(scores.sizes()):
        cells = [layer, heads, *(c[layer] for c in counts["heads"]), neurons, *(c[layer] for c in counts["neurons"])]
        table.add_row(*map(str, cells))
    return table


def mask_table(info: Mapping[str, Any]) -> Table:
    """Per layer: heads and neurons before and after."""
    table = _table("What stays", ["layer", "heads", "neurons"])
    for layer, (kept, size) in enumerate(zip(info["kept"], info["sizes"], strict=True)):
        table.add_row(str(layer), f"{kept[0]} of {size[0]}", f"{kept[1]} of {size[1]}")
    return table


def cut_tables(info: Mapping[str, Any]) -> list[Table | str]:
    """Everything about a cut: what stays, what was asked, which layers were tried, the vocabulary.

    info: of the stage `prune`.
    """
    found: list[Table | str] = [mask_table(info), *filter(None, [budget_line(info)])]
    if "layers_tried" in info:
        found.append(layers_table(info["layers_tried"]))
    if "vocabulary" in info:
        found.append(vocabulary_table(info["vocabulary"]))
    return found


def layers_table(tried: Sequence[Mapping[str, Any]]) -> Table:
    """The sets of layers that were tried, the largest figures first; tried: `layers_tried` of the stage `prune`."""
    table = _table("Layers tried (dev, x100)", ["layers that stay", "cut", "reconstructed"])
    for one in sorted(tried, key=lambda one: -sum(one["dev"].values())):
        after = figures_text(one["dev"]) if one["dev"] != one["dev_cut"] else ""
        table.add_row(", ".join(map(str, one["layers"])), figures_text(one["dev_cut"]), after)
    return table


def vocabulary_table(report: Mapping[str, Any]) -> Table:
    """What a smaller vocabulary keeps; report: `VocabularyReport.to_json()`."""
    coverage = report["coverage"]
    table = _table("Vocabulary", ["", ""])
    table.add_row("tokens", f"{report['tokens_after']:,} of {report['tokens_before']:,}")
    table.add_row("bytes saved (float32)", f"{report['bytes_saved']:,}")
    table.add_row("corpus: occurrences kept", f"{report['corpus_kept']:.2%}")
    table.add_row("held-out lines: occurrences kept", f"{coverage['tokens_kept']:.2%}")
    table.add_row("held-out lines: split as before", f"{coverage['lines_unchanged']:.2%}")
    table.add_row(
        "held-out lines: unknown tokens", f"{coverage['unknown_before']:.3%} -> {coverage['unknown_after']:.3%}"
    )
    table.add_row("held-out lines: length", f"{coverage['length_ratio']:.3f}x")
    return table


def evaluation_tables(results: Mapping[str, Mapping[str, Any]], documents: str = "") -> list[Table]:
    """A table for each kind of tasks that there are, with their average.

    Spearman x100 per similarity task, accuracy per transfer task, nDCG per retrieval task, MAP per reranking task, and
    what own labelled data gave.

    One column per model, and the change where there are two.

    results: label -> `Evaluation.to_json()`; the first is the one that changes are counted from. A single model needs
        no label: its column is named after the measure.
    documents: the model that embedded the documents of the retrieval and reranking tasks, where that was another one.
    """
    first = next(iter(results.values()))
    tables = []
    if first["average"] is not None:
        tables.append(_similarity_table(results))
    if first["transfer_average"] is not None:
        tables.append(_transfer_table(results))
    if first.get("retrieval_average") is not None:
        tables.append(_search_table(results, "Retrieval", RETRIEVAL, "retrieval_average", documents))
    if first.get("reranking_average") is not None:
        tables.append(_search_table(results, "Reranking", RERANKING, "reranking_average", documents))
    if any("measures" in task for task in first["tasks"].values()):
        tables.append(_own_table(results))
    return tables


def _results_table(title: str, count: str, measure: str, labels: Sequence[str]) -> Table:
    columns = list(labels) if len(labels) > 1 else [measure]
    return _table(title, ["task", count, *columns, *(["change"] if len(labels) == 2 else [])])


def _add_result(table: Table, name: str, count: str, values: Sequence[float | None], digits: int = 2) -> None:
    cells = ["-" if value is None else f"{value:.{digits}f}" for value in values]
    if len(values) == 2 and values[0] is not None and values[1] is not None:
        cells.append(f"{values[1] - values[0]:+.{digits}f}")
    table.add_row(name, count, *cells)


def _similarity_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _results_table("Spearman x100 over all pairs of a task", "pairs", "Spearman", list(results))
    models = list(results.values())
    first = models[0]
    for task, result in first["tasks"].items():
        if "spearman" not in result:
            continue
        _add_result(table, task, str(result["pairs"]), [model["tasks"][task]["spearman"] for model in models])
        if "subset_mean" in result and len(models) == 1:
            for subset, values in result["subsets"].items():
                _add_result(table, f"  {subset}", str(values["pairs"]), [values["spearman"]])
            _add_result(table, "  mean of subsets", "", [result["subset_mean"]])
            _add_result(table, "  weighted mean of subsets", "", [result["subset_weighted_mean"]])
    _add_result(table, "average", "", [model["average"] for model in models])
    where, minimum = first["align_uniform_task"], first["positive_minimum"]
    alignments = [model["alignment"] for model in models]
    _add_result(table, f"alignment ({where}, gold >= {minimum:g})", "", alignments, 4)
    _add_result(table, f"uniformity ({where})", "", [model["uniformity"] for model in models], 4)
    return table


def _transfer_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    title = "Accuracy in percent on the transfer tasks"
    table = _results_table(title, "examples", "accuracy", list(results))
    models = list(results.values())
    for task, result in models[0]["tasks"].items():
        if "accuracy" not in result:
            continue
        _add_result(table, task, str(result["examples"]), [model["tasks"][task]["accuracy"] for model in models])
        if "f1" in result:
            _add_result(table, "  F1", "", [model["tasks"][task]["f1"] for model in models])
    _add_result(table, "average", "", [model["transfer_average"] for model in models])
    return table


def _own_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _results_table("On your own data, in percent", "examples", "result", list(results))
    models = list(results.values())
    for task, result in models[0]["tasks"].items():
        for number, measure in enumerate(result.get("measures", ())):
            count = str(result["examples"]) if number == 0 else ""
            name = f"{task}: {measure.replace('_', ' ')}"
            _add_result(table, name, count, [model["tasks"][task]["measures"][measure] for model in models])
    for kind, measure in (("classification", "accuracy 8 shot"), ("clustering", "v measure")):
        if models[0].get(f"{kind}_average") is not None:
            _add_result(table, f"average {kind}: {measure}", "", [model[f"{kind}_average"] for model in models])
    return table


def agreement_table(found: Mapping[str, Any], reference: str = "the dense model") -> Table:
    """How far a model agrees with its reference without labels; found: `Agreement.to_json()` with its `data`."""
    title = f"Agreement with {reference} on {found['sentences']} sentences ({found['data']})"
    table = _table(title, ["", "agreement", "by chance"])
    for name, value, unrelated in agreement_rows(found, reference):
        table.add_row(name, "-" if value is None else f"{value:.4f}", f"{unrelated:.4f}")
    return table


def agreement_tables(info: Mapping[str, Any]) -> list[Table]:
    """`agreement_table` where an agreement was measured; info: of the stage `eval`."""
    return [agreement_table(info["agreement"])] if "agreement" in info else []


def aligned_tables(info: Mapping[str, Any]) -> list[Table]:
    """Retrieval in the dense model's index, where that was measured; info: of the stage `eval`."""
    if "aligned" not in info:
        return []
    results = {"dense": info["dense"], "pruned queries": info["aligned"]}
    return [_search_table(results, "Retrieval", RETRIEVAL, "retrieval_average", "the dense model")]


def _search_table(
    results: Mapping[str, Mapping[str, Any]], title: str, measures: Mapping[str, str], average: str, documents: str
) -> Table:
    """measures: key -> name; the first is the one to judge by, and the tasks that have it are those of the table."""
    (main, name), *others = measures.items()
    by = f"; documents by {documents}" if documents else ""
    table = _results_table(f"{title}, x100{by}", "queries", name, list(results))
    models = list(results.values())
    for task, result in models[0]["tasks"].items():
        if main not in result:
            continue
        for key, label, count in (
            (main, f"{task}, {name}" if len(models) > 1 else task, str(result["queries"])),
            *((key, f"  {other}", "") for key, other in others),
        ):
            _add_result(table, label, count, [model["tasks"][task][key] for model in models])
    _add_result(table, f"average {name}", "", [model[average] for model in models])
    return table


_BENCH_FIGURES = ("sent/s", "tokens/s", "p50 ms", "p95 ms", "peak MB", "cosine", "speedup")


def _bench_figures(row: Mapping[str, Any]) -> list[str]:
    return [
        f"{row['sentences_per_second']:.0f}",
        f"{row['tokens_per_second']:.0f}",
        f"{row['p50_ms']:.1f}",
        f"{row['p95_ms']:.1f}",
        "-" if row["peak_rss_mb"] is None else f"{row['peak_rss_mb']:.0f}",
        "-" if row.get("cosine") is None else f"{row['cosine']:.5f}",
        "-" if row.get("speedup") is None else f"{row['speedup']:.2f}x",
    ]


@dataclass(frozen=True)
class BenchTable:
    """Speed, memory and fidelity per model, runtime, precision, batch size and order; see `BenchRow`.

    `speedup` is against the first row of the same batch size and order. The widest of three layouts that fits the
    terminal is shown; all have the same figures: one line a row; the batches as headings; the figures below the names.

    report: `BenchReport.to_json()`.
    """

    report: Mapping[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unlimited = options.update(max_width=10_000)
        for table in (self._wide(), self._grouped()):
            if Measurement.get(console, unlimited, table).maximum <= options.max_width:
                yield table
                return
        yield self._stacked()

    def _title(self) -> str:
        report = self.report
        return f"{report['sentences']} sentences, {report['tokens']} tokens, {report['machine']['threads']} threads"

    def _wide(self) -> Table:
        table = _table(self._title(), ["model", "runtime", "precision", "batch", "order", *_BENCH_FIGURES])
        for row in self.report["rows"]:
            names = [row["model"], row["runtime"], row["precision"], str(row["batch_size"]), row["order"]]
            table.add_row(*names, *_bench_figures(row))
        return table

    def _groups(self) -> dict[str, list[Mapping[str, Any]]]:
        """The rows by "batch 32, sorted"."""
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for row in self.report["rows"]:
            groups.setdefault(f"batch {row['batch_size']}, {row['order']}", []).append(row)
        return groups

    def _grouped(self) -> Table:
        # What all rows share goes into the title.
        shared = [name for name in ("runtime", "precision") if len({row[name] for row in self.report["rows"]}) == 1]
        names = [name for name in ("model", "runtime", "precision") if name not in shared]
        title = ", ".join([self._title(), *(self.report["rows"][0][name] for name in shared)])
        table = _table(title, [*names, *_BENCH_FIGURES])
        for group, rows in self._groups().items():
            table.add_row(group)
            for row in rows:
                first, *others = [row[name] for name in names]
                table.add_row(f"  {first}", *others, *_bench_figures(row))
        return table

    def _stacked(self) -> Text:
        figures = [_bench_figures(row) for row in self.report["rows"]]
        widths = [max(map(len, column)) for column in zip(_BENCH_FIGURES, *figures, strict=True)]

        def line(cells: Sequence[str]) -> str:
            return "    " + "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))

        lines = [(self._title(), "bold"), (line(_BENCH_FIGURES), "bold")]
        for group, rows in self._groups().items():
            lines.append((group, ""))
            for row in rows:
                lines.append((f"  {row['model']}, {row['runtime']}, {row['precision']}", ""))
                lines.append((line(_bench_figures(row)), ""))
        return Text("\n").join(Text(text, style) for text, style in lines)


def skip_notes(report: Mapping[str, Any]) -> list[str]:
    """One line for every reason why something of `all` was not measured; report: `BenchReport.to_json()`."""
    missing: list[str] = []
    by_reason: dict[str, list[str]] = {}
    for entry in report["skipped"]:
        if entry["precision"] is None:
            missing.append(entry["runtime"])
        else:
            by_reason.setdefault(entry["reason"], []).append(f"{entry['runtime']} {entry['precision']}")
    notes = []
    if missing:
        extras = ",".join(RUNTIMES[name].extra or name for name in missing)
        notes.append(f"Not installed: {', '.join(missing)}; pip install 'sparsecse[{extras}]'")
    notes += [f"Skipped {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    return notes


def check_table(verdicts: Sequence[Verdict]) -> Table:
    """Each rule, what was found, its bound, and whether it holds."""
    failed = sum(not one.holds for one in verdicts)
    table = _table(
        f"Rules that do not hold: {failed} of {len(verdicts)}" if failed else "All rules hold",
        ["rule", "found", "asked", "holds"],
    )
    # Names of tasks can be paths.
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    for one in verdicts:
        table.add_row(one.rule.name, one.found, one.asked, "yes" if one.holds else "NO")
    return table


def change_table(title: str, rows: Sequence[Row]) -> Table:
    """Figures of the dense and of the pruned model, and how they changed; at most 80 columns."""
    table = _table(escape(title), ["", "dense", "pruned", "change"])
    names = table.columns[0]
    names.no_wrap, names.overflow, names.max_width = False, "fold", 36
    for row in rows:
        table.add_row(Text(row.name), row.text(row.dense), row.text(row.pruned), row.change_text)
    return table


def run_table(facts: Mapping[str, Any]) -> Table:
    """The finished stages of a run directory."""
    table = _table(str(facts["workdir"]), ["stage", "made", "seconds", "state"])
    for stage, entry in facts["stages"].items():
        state = entry["stale"] or "ok" if entry["intact"] else "files are missing or were changed"
        table.add_row(stage, entry["created"], f"{entry['seconds']:.1f}", state)
    return table


def summary_table(facts: Mapping[str, Any]) -> Table:
    """One model's family, pooling and size."""
    table = _table("Model", ["", ""])
    for name in ("family", "pooling", "normalize", "max_length", "hidden_size", "vocab_size"):
        table.add_row(name, "not named" if facts[name] is None else str(facts[name]))
    if facts["truncate_dim"] is not None:
        table.add_row("truncate_dim", str(facts["truncate_dim"]))
    if facts["prompts"]:
        table.add_row("prompts", f"{', '.join(facts['prompts'])}; {facts['default_prompt'] or 'none'} used")
    table.add_row("parameters", f"{facts['parameters']:,} ({facts['embedding_parameters']:,} in embeddings)")
    if facts["bytes_on_disk"] is not None:
        table.add_row("bytes of the weights", f"{facts['bytes_on_disk']:,}")
    return table


def file_table(facts: Mapping[str, Any], title: str) -> Table:
    """Files of a folder and their bytes."""
    table = _table(title, ["file", "bytes"])
    for file in facts["files"]:
        table.add_row(file["path"], f"{file['bytes']:,}")
    table.add_row("total", f"{facts['bytes']:,}")
    return table


def size_table(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """Parameters and bytes of some models; models: label -> {"parameters", "bytes_on_disk"}."""
    table = _table("Size", ["model", "parameters", "bytes of the weights"])
    for label, facts in models.items():
        size = facts["bytes_on_disk"]
        table.add_row(label, f"{facts['parameters']:,}", "-" if size is None else f"{size:,}")
    return table


def layer_table(facts: Mapping[str, Any]) -> Table:
    """Per layer: heads and neurons of one model."""
    table = _table(f"{facts['model']}", ["layer", "heads", "neurons"])
    for i, layer in enumerate(facts["layers"]):
        table.add_row(str(i), str(layer["heads"]), str(layer["neurons"]))
    return table
