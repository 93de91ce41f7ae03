"""The report as one HTML file that loads nothing: no script, no font, no image from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sparsecse.reporting import charts
from sparsecse.reporting.facts import Curve, Cut, Kind, Report, Row, StageFacts
from sparsecse.reporting.markup import Markup, element, join
from sparsecse.reporting.quality import agreement_rows
from sparsecse.reporting.style import STYLE

MARKER = "sparsecse report"
"""Near the beginning of every file of a report: tells that it is ours to replace."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_CLASSES = {1: "n gain", -1: "n loss", 0: "n"}


def page(report: Report) -> str:
    """The whole file."""
    parts = [
        ("quality", "Quality", _quality(report)),
        ("plane", "Alignment and uniformity", _plane(report)),
        ("agreement", "Agreement with the dense model", _agreement(report)),
        ("sparsity", "Quality against sparsity", join(map(_curve, report.curves)) if report.curves else None),
        ("cut", "What stays", None if report.cut is None else _cut(report, report.cut)),
        ("speed", "Speed", _speed(report)),
        ("sizes", "Size", _sizes(report)),
        ("repeat", "How it was made, and how to repeat it", _repeat(report)),
    ]
    shown = [(name, title, body) for name, title, body in parts if body is not None]
    links = [element("a", title, href=f"#{name}") for name, title, _ in shown]
    sections = [element("section", element("h2", title), body, id=name) for name, title, body in shown]
    head = element(
        "head",
        Markup(f'<meta charset="utf-8"><meta name="generator" content="{MARKER}">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", f"{report.model}: {_headline(report)}"),
        element("style", Markup(STYLE)),
    )
    body = element("body", _header(report, links), element("main", *sections), _footer(report))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def prose(text: str) -> Markup:
    """A sentence whose `words` in backticks are code."""
    parts = text.split("`")
    return join(element("code", part) if i % 2 and i < len(parts) - 1 else part for i, part in enumerate(parts))


def _paragraph(text: str, class_: str | None = None) -> Markup:
    return element("p", prose(text), class_=class_)


def _headline(report: Report) -> str:
    """What left, in words."""
    if report.cut is None:
        return "a run without a cut"
    heads, all_heads, neurons, all_neurons = report.cut.counts()
    shares = [
        f"{1 - heads / all_heads:.1%} of the heads" if all_heads else "",
        f"{1 - neurons / all_neurons:.1%} of the neurons",
    ]
    return f"{' and '.join(filter(None, shares))} removed"


def _header(report: Report, links: Sequence[Markup]) -> Markup:
    tiles = [
        element(
            "li",
            element("span", row.name, class_="name"),
            element("span", charts.signed(row.text(row.pruned)), class_="value"),
            element("span", *_from(row), class_="from"),
        )
        for row in report.summary()
    ]
    warnings = None
    if report.warnings:
        items = element("ul", *(element("li", prose(text)) for text in report.warnings))
        warnings = element("div", element("strong", "Read this first"), items, class_="warnings", role="note")
    return element(
        "header",
        element("p", "sparsecse report", class_="eyebrow"),
        element("h1", report.model),
        _paragraph(_headline(report), "lead"),
        warnings,
        element("ul", *tiles, class_="tiles") if tiles else None,
        element("nav", *links, aria_label="Parts"),
    )


def _from(row: Row) -> list[object]:
    """The lines below a tile's figure: the change, and what it is from."""
    if not row.change_text:
        return [] if row.dense is None else [f"dense {charts.signed(row.text(row.dense))}"]
    class_ = {1: "gain", -1: "loss", 0: "same"}[row.verdict]
    change = element("b", charts.signed(row.change_text), class_=class_)
    return [change, element("span", f"dense {charts.signed(row.text(row.dense))}")]


def _scrolled(label: str, table: Markup) -> Markup:
    """A table that scrolls inside, not the page."""
    return element("div", table, class_="scroll", role="region", tabindex="0", aria_label=label)


def _table(label: str, header: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> Markup:
    """left: how many columns are words. A row of one cell is a heading across."""
    classes = [None if i < left else "n" for i in range(len(header))]
    head = element("tr", *(element("th", cell, class_=c, scope="col") for cell, c in zip(header, classes, strict=True)))
    lines = []
    for row in rows:
        if len(row) == 1:
            across = element("th", row[0], scope="rowgroup", colspan=len(header))
            lines.append(element("tr", across, class_="group"))
            continue
        cells = [element("td", cell, class_=c) for cell, c in zip(row[1:], classes[1:], strict=True)]
        lines.append(element("tr", element("th", row[0], scope="row"), *cells))
    return _scrolled(label, element("table", element("thead", head), element("tbody", *lines)))


def changes_table(label: str, rows: Sequence[Row], total: Row | None = None) -> Markup:
    """Dense, pruned and the change; the last row in bold where there is a total."""
    counted = any(row.count for row in rows)
    names = ["", *(["examples"] if counted else []), "dense", "pruned", "change"]
    head = element("tr", *(element("th", name, scope="col", class_="n" if name else None) for name in names))
    lines = []
    for row in [*rows, *([] if total is None else [total])]:
        cells = [
            element("th", row.name, scope="row"),
            element("td", row.count, class_="n") if counted else None,
            *(element("td", charts.signed(row.text(value)), class_="n") for value in (row.dense, row.pruned)),
            element("td", charts.signed(row.change_text), class_=_CLASSES[row.verdict]),
        ]
        lines.append(element("tr", *cells, class_="total" if row is total else "minor" if row.minor else None))
    return _scrolled(label, element("table", element("thead", head), element("tbody", *lines)))


def _figure(chart: Markup, caption: str, table: Markup) -> Markup:
    """A chart with its caption, and the table of the same numbers beside it."""
    figure = element("figure", chart, element("figcaption", prose(caption)) if caption else None)
    return element("div", figure, table, class_="pair")


def _quality(report: Report) -> Markup:
    parts: list[Markup | None] = []
    if report.quality:
        chart = charts.changes([(kind.title, kind.tasks()) for kind in report.quality])
        tables = join(map(_kind, report.quality))
        parts.append(_figure(chart, "Change against the dense model, in points.", element("div", tables)))
    if report.missing:
        items = [element("li", element("strong", what), ": ", prose(how)) for what, how in report.missing]
        parts += [element("h3", "Not measured"), element("ul", *items, class_="missing")]
        parts.append(
            _paragraph(
                "Of the run directory's models, with `--workdir`. Each `sparsecse eval` replaces the one before: name "
                "all tasks in one call, as in `--tasks sts,./my-collection`."
            )
        )
    if report.tasks_left_out:
        parts += [element("h3", "Notes"), element("ul", *map(_item, report.tasks_left_out), class_="missing")]
    return join(parts)


def _item(text: str) -> Markup:
    return element("li", prose(text))


def _kind(kind: Kind) -> Markup:
    table = changes_table(f"Figures of {kind.title}", kind.rows, kind.total)
    return join([element("h3", kind.title.capitalize()), _paragraph(kind.measure, "note"), table])


def _plane(report: Report) -> Markup:
    found = report.plane
    if found is None:
        return _paragraph("Not measured: they come with a similarity task of `sparsecse eval` that has positive pairs.")
    caption = (
        f"On {found.task}. Alignment: mean squared distance of the vectors of pairs scored at least "
        f"{found.positive_minimum:g}; uniformity: how evenly all vectors are spread. Less is better for both."
    )
    table = changes_table("Alignment and uniformity", found.rows)
    return _figure(charts.plane(found), caption, table)


def _agreement(report: Report) -> Markup:
    found = report.agreement
    if not found:
        return _paragraph("Not measured: `sparsecse eval --agreement FILE` compares both models on any text.")
    rows = agreement_rows(found)
    caption = (
        f"On {found['sentences']:,} sentences ({found['data']}), without labels. 1 is the dense model itself; the mark "
        "is chance."
    )
    cells = [[name, "-" if value is None else f"{value:.4f}", f"{chance:.4f}"] for name, value, chance in rows]
    return _figure(charts.agreement(rows), caption, _table("Agreement", ["", "agreement", "by chance"], cells))


_LONG = 12  # rows of a table that is not folded


def _curve(found: Curve) -> Markup:
    table = _table(found.title, found.header, [list(map(charts.signed, row)) for row in found.rows], left=found.words)
    if len(found.rows) > _LONG:
        table = _folded("The figures", table)
    return join([element("h3", found.title), _figure(charts.curve(found), found.measured, table)])


def _cut(report: Report, cut: Cut) -> Markup:
    heads, all_heads, neurons, all_neurons = cut.counts()
    kept = f"{heads:,} of {all_heads:,} heads and {neurons:,} of {all_neurons:,} neurons stay. "
    rows = [
        [str(layer), f"{sum(row)} of {len(row)}", f"{own[0]:,} of {own[1]:,}"]
        for layer, (row, own) in enumerate(zip(cut.heads, cut.neurons, strict=True))
    ]
    caption = "A row is a layer, a column a head."
    if cut.scores:
        caption += f" Score: {cut.method}; more is more useful; five shades with as many heads each."
    parts = [
        _paragraph(kept + cut.asked),
        _paragraph(report.repair) if report.repair else None,
        element("h3", "Heads"),
        _figure(
            charts.head_map(cut), caption, _table("Heads and neurons by layer", ["layer", "heads", "neurons"], rows)
        ),
        element("h3", "Neurons of each layer"),
        element(
            "figure", charts.neuron_density(cut), element("figcaption", "The part of each layer's neurons that stays.")
        ),
    ]
    if cut.scores:
        wide = max(map(len, cut.scores))
        scores = [
            [str(layer), *(f"{score:.4g}" for score in row), *[""] * (wide - len(row))]
            for layer, row in enumerate(cut.scores)
        ]
        table = _table("Scores of the heads", ["layer", *map(str, range(wide))], scores)
        parts.append(_folded("Score of every head", table))
    if report.vocabulary:
        kept_tokens, tokens = (report.vocabulary[f"tokens_{when}"] for when in ("after", "before"))
        coverage = report.vocabulary["coverage"]
        told = (
            f"{kept_tokens:,} of {tokens:,} tokens stay; on held-out lines {coverage['tokens_kept']:.2%} of the "
            f"occurrences are kept and {coverage['lines_unchanged']:.2%} of the lines are split as before."
        )
        parts += [element("h3", "Vocabulary"), _paragraph(told)]
    return join(parts)


def _folded(title: str, *body: object) -> Markup:
    return element("details", element("summary", title), element("div", *body))


def _speed(report: Report) -> Markup:
    if not report.bench:
        return _paragraph("Not measured: `sparsecse bench` times both models of the run directory in turn.")
    found = report.bench
    runs = " and ".join(dict.fromkeys(f"{row['runtime']} {row['precision']}" for row in found["rows"]))
    caption = (
        f"Median latency of a batch; the mark is the 95th percentile; each group has its own scale. "
        f"{runs}; {found['sentences']} sentences, {found['rounds']} rounds in turn, threads: "
        f"{found['machine']['threads']}, {found['machine']['cpu']}."
    )
    header = ["", "p50 ms", "p95 ms", "sentences/s", "speedup", "cosine"]
    rows: list[list[str]] = []
    for group, timed in report.timed():
        rows.append([group])
        for label, row in timed:
            speed = f"{row['sentences_per_second']:,.0f}"
            figures = [f"{row['p50_ms']:.2f}", f"{row['p95_ms']:.2f}", speed, f"{row['speedup']:.2f}x"]
            rows.append([label, *figures, f"{row['cosine']:.5f}"])
    return _figure(charts.latency(report.timed()), caption, _table("Speed", header, rows))


def _sizes(report: Report) -> Markup | None:
    return changes_table("Size", report.sizes) if report.sizes else None


def _repeat(report: Report) -> Markup:
    parts: list[Markup | None] = [element("h3", "Commands")]
    commands = report.commands()
    for command, stages in commands:
        parts.append(element("pre", element("code", command)))
        parts.append(_paragraph(f"made {', '.join(stages)}"))
    if others := [stage.name for stage in report.stages if not stage.command]:
        parts.append(_paragraph(f"Made from Python, without a command: {', '.join(others)}. The settings are below."))
    finished = [[one.name, one.created, f"{one.seconds:,.1f}", one.state or "ok"] for one in report.stages]
    table = _table("Stages", ["stage", "finished", "seconds", "state"], finished, left=4)
    parts += [
        element("h3", "Stages"),
        _figure(charts.seconds(report.stages), "Loading what a stage needs is not counted.", table),
    ]
    parts += [element("h3", "Settings and hashes"), *(_stage(one) for one in report.stages)]
    parts += [element("h3", "Machine and versions"), _machines(report.stages)]
    return join(parts)


def _stage(one: StageFacts) -> Markup:
    """Settings, inputs and outputs of a stage, folded."""
    parts: list[Markup] = []
    for title, values, class_ in (
        ("settings", flat(one.settings), "setting"),
        ("inputs (SHA-256)", one.inputs, "hash"),
        ("outputs (SHA-256)", one.outputs, "hash"),
    ):
        if values:
            lines = [
                element(
                    "tr", element("th", name, scope="row"), element("td", element("code", _value(value)), class_=class_)
                )
                for name, value in values.items()
            ]
            table = element("table", element("caption", title), element("tbody", *lines), class_="wide")
            parts.append(_scrolled(f"{title} of {one.name}", table))
    return _folded(one.name, *parts)


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings as `training.learning_rate`."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        else:
            found[before + name] = value
    return found


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _machines(stages: Sequence[StageFacts]) -> Markup:
    """Each machine and set of versions once, with the stages that ran there."""
    found: dict[str, list[str]] = {}
    for one in stages:
        facts = {**one.machine, **one.versions}
        text = "; ".join(f"{name} {_words(value)}" for name, value in facts.items())
        found.setdefault(text, []).append(one.name)
    parts = [element("p", element("strong", ", ".join(names)), ": ", text) for text, names in found.items()]
    return join(parts)


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _footer(report: Report) -> Markup:
    dates = [stage.created for stage in report.stages if stage.created]
    version = report.stages[-1].versions.get("sparsecse", "") if report.stages else ""
    return element(
        "footer",
        f"Written by sparsecse {version} from the run directory's records; last stage {max(dates, default='-')}.",
    )
