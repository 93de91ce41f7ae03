"""The figures of the report by matplotlib, for slides and papers; the page has its own."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sparsecse.files import atomic_file
from sparsecse.reporting.charts import SHADES, around, shades
from sparsecse.reporting.facts import Report
from sparsecse.reporting.quality import agreement_rows

_DENSE, _PRUNED, _LOSS = "#7d8590", "#0b5cad", "#b0440a"
_LINES = (_PRUNED, _LOSS, "#00735c", "#8a3a7c")
_MARKERS = "os^D"
_RAMP = ("#d6e4f3", "#aecbe8", "#7aa8d6", "#437fbb", "#17538a")


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


@contextlib.contextmanager
def png(path: Path, size: tuple[float, float], dpi: int, maker: str) -> Iterator[Any]:
    """Yield an empty figure of matplotlib, of so many inches, that is then written as a PNG file.

    maker: the command, which the file's header names.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=size, layout="constrained")
    try:
        yield figure
        with atomic_file(path) as temporary:
            figure.savefig(temporary, dpi=dpi, format="png", metadata={"Software": maker})
    finally:
        plt.close(figure)


def save_figure(report: Report, draw: Callable[[Report, Any], None], path: Path) -> None:
    """Draw one of `FIGURES` into a PNG file, whose header names it as ours."""
    with png(path, (7, 4.5), 150, "sparsecse report") as figure:
        draw(report, figure)
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)


def plain(text: str) -> str:
    """A name as plain text: a dollar would begin a formula."""
    return text.replace("$", r"\$")


def _quality(report: Report, figure: Any) -> None:
    axes = figure.subplots()
    rows = [row for kind in report.quality for row in kind.rows if not row.minor and row.difference is not None]
    values = [row.difference or 0.0 for row in rows]
    axes.barh(range(len(rows)), values, color=[_LOSS if value < 0 else _PRUNED for value in values])
    axes.bar_label(axes.containers[0], [row.change_text for row in rows], padding=3)
    axes.set_yticks(range(len(rows)), [plain(row.name) for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(1.25 * min(-1.0, *values), 1.25 * max(1.0, *values))
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("change against the dense model, points")


def _plane(report: Report, figure: Any) -> None:
    axes = figure.subplots()
    assert report.plane is not None
    dense, pruned = report.plane.dense, report.plane.pruned
    axes.annotate("", pruned, dense, arrowprops={"arrowstyle": "->", "color": _DENSE})
    for name, marker, colour, place in (("dense", "o", _DENSE, dense), ("pruned", "s", _PRUNED, pruned)):
        axes.plot(*place, marker, color=colour, markersize=9, label=name)
    axes.legend()
    axes.set_xlim(around([dense[0], pruned[0]]))
    axes.set_ylim(around([dense[1], pruned[1]]))
    axes.grid(alpha=0.3)
    axes.set_xlabel(f"alignment on {plain(report.plane.task)} (less is better)")
    axes.set_ylabel("uniformity (less is better)")


def _agreement(report: Report, figure: Any) -> None:
    axes = figure.subplots()
    rows = [row for row in agreement_rows(report.agreement) if row[1] is not None]
    axes.barh(range(len(rows)), [value for _, value, _ in rows], color=_PRUNED, height=0.5)
    axes.bar_label(axes.containers[0], [f"{value:.4f}" for _, value, _ in rows], padding=3)
    axes.plot([chance for *_, chance in rows], range(len(rows)), "|", color="black", markersize=16, label="by chance")
    axes.set_yticks(range(len(rows)), [plain(name).replace(", looked for", ",\nlooked for") for name, *_ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)


def _curve(report: Report, figure: Any) -> None:
    every = figure.subplots(1, len(report.curves), squeeze=False)[0]
    for axes, curve in zip(every, report.curves, strict=True):
        for number, line in enumerate(curve.lines):
            x, y, low, high = zip(*line.points, strict=True)
            colour = _LINES[number % 4]
            axes.plot(x, y, marker=_MARKERS[number % 4], color=colour, label=plain(line.name), markersize=4)
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        if curve.chosen is not None:
            axes.axvline(curve.chosen, color=_DENSE, linestyle="--", linewidth=1.2, label="taken")
        if curve.tolerance:
            axes.axhline(-curve.tolerance, color=_LOSS, linestyle=":", linewidth=1.2, label="what may be lost")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
        axes.set_title(plain(curve.title), fontsize="medium")
        axes.set_xlabel("removed, %")
    every[0].set_ylabel("points above or below dense")


def _heads(report: Report, figure: Any) -> None:
    from matplotlib.patches import Patch

    axes = figure.subplots()
    assert report.cut is not None
    cut = report.cut
    shaded = shades(cut.scores) if cut.scores else [[SHADES // 2] * len(row) for row in cut.heads]
    for layer, row in enumerate(cut.heads):
        for head, stays in enumerate(row):
            colour = _RAMP[shaded[layer][head]] if stays else "white"
            axes.add_patch(_square(head, layer, facecolor=colour, edgecolor="white" if stays else _DENSE))
            if not stays:
                axes.plot(head, layer, "x", color=_LOSS, markersize=7)
    wide, layers = max(map(len, cut.heads)), len(cut.heads)
    axes.set(xlim=(-0.6, wide - 0.4), ylim=(layers - 0.4, -0.6), xlabel="head", ylabel="layer", aspect="equal")
    axes.set_xticks(range(0, wide, 1 if wide <= 16 else 2))
    axes.set_yticks(range(layers))
    axes.spines[:].set_visible(False)
    names = {"lowest fifth": _RAMP[0], "highest fifth": _RAMP[-1]} if cut.scores else {"stays": _RAMP[SHADES // 2]}
    marks = [Patch(color=colour, label=name) for name, colour in names.items()]
    marks.append(axes.plot([], [], "x", color=_LOSS, label="removed")[0])
    axes.legend(handles=marks, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)


def _square(x: float, y: float, **style: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.45, y - 0.45), 0.9, 0.9, **style)


def _neurons(report: Report, figure: Any) -> None:
    axes = figure.subplots()
    assert report.cut is not None
    shares = [100 * kept / size if size else 0.0 for kept, size in report.cut.neurons]
    axes.barh(range(len(shares)), [100.0] * len(shares), color="#eceae6")
    drawn = axes.barh(range(len(shares)), shares, color=_PRUNED)
    axes.bar_label(
        drawn, [f"{kept:,}" for kept, _ in report.cut.neurons], padding=-4, color="white", label_type="center"
    )
    axes.set_yticks(range(len(shares)))
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="neurons that stay, %", ylabel="layer")


def _latency(report: Report, figure: Any) -> None:
    groups = report.timed()
    figure.set_figheight(max(3.0, sum(0.8 + 0.45 * len(timed) for _, timed in groups)))
    every = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[1 + len(timed) for _, timed in groups])[:, 0]
    for axes, (group, timed) in zip(every, groups, strict=True):
        for number, (_, row) in enumerate(timed):
            axes.barh(number, row["p50_ms"], color=_DENSE if row["model"] == "dense" else _PRUNED, height=0.6)
            axes.plot([row["p50_ms"], row["p95_ms"]], [number, number], color="black", linewidth=1)
            end = max(row["p95_ms"], row["p50_ms"])
            axes.annotate(f"{row['p50_ms']:.2f}", (end, number), (5, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(timed)), [plain(label) for label, _ in timed])
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlim(left=0)
        axes.set_title(plain(group), fontsize="medium", loc="left")
    every[-1].set_xlabel("ms a batch: bar to the median, line to the 95th percentile")


FIGURES: dict[str, tuple[Callable[[Report], Any], Callable[[Report, Any], None]]] = {
    "quality": (lambda report: report.quality, _quality),
    "plane": (lambda report: report.plane, _plane),
    "agreement": (lambda report: report.agreement, _agreement),
    "curve": (lambda report: report.curves, _curve),
    "heads": (lambda report: report.cut, _heads),
    "neurons": (lambda report: report.cut, _neurons),
    "latency": (lambda report: report.bench, _latency),
}
"""The figures by name: whether a report has it, and what draws it."""
