"""The figures of the report as inline SVG; every one has a table beside it with the same numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsecse.progress import duration
from sparsecse.reporting.facts import Curve, Cut, Plane, Row, StageFacts
from sparsecse.reporting.markup import Markup
from sparsecse.reporting.svg import WIDTH, Drawing, digits, fitting, ticks

SHADES = 5  # of the scores in the head map
_VERDICTS = {1: "gain", -1: "loss", 0: "same"}


def signed(text: str) -> str:
    """A number with a true minus sign."""
    return re.sub(r"-(?=\d)", "\u2212", text)


def changes(groups: Sequence[tuple[str, Sequence[Row]]]) -> Markup:
    """A bar to the right for each gain and to the left for each loss, on one scale of at least a point either way."""
    rows = [row for _, group in groups for row in group]
    told = "; ".join(f"{row.name} {row.change_text}" for row in rows)
    drawing = Drawing("Change of every task against the dense model", told)
    left, right, step = 124.0, WIDTH - 50.0, 23.0
    values = [row.difference or 0.0 for row in rows]
    low, high = min(-1.0, *values), max(1.0, *values)
    scale = (right - left) / (high - low)
    zero = left - low * scale
    y = 0.0
    for name, group in groups:
        y += 6 if y else 0
        drawing.text(0, y + 13, name, "strong")
        y += step - 3
        for row in group:
            start, end = sorted((zero, zero + (row.difference or 0.0) * scale))
            detail = f"{row.name}: dense {row.text(row.dense)}, pruned {row.text(row.pruned)}"
            drawing.text(0, y + 13, fitting(row.name, left - 6))
            drawing.bar(start, y + 3, max(end - start, 1.0), 12, _VERDICTS[row.verdict], detail)
            drawing.text(WIDTH, y + 13, signed(row.change_text), "number", "end")
            y += step
    drawing.line(zero, 2, zero, y, "axis")
    return drawing.svg(y + 4)


@dataclass(frozen=True)
class Bar:
    """A labelled bar: how long of `Bars.full`, in what class, with a mark across it and what it says."""

    label: str
    value: float
    text: str
    class_: str = "pruned"
    mark: float | None = None


def bars(title: str, groups: Sequence[tuple[str, Sequence[Bar]]], full: float | None = None) -> Markup:
    """Bars below their labels; each group has its own scale unless `full` is given."""
    told = "; ".join(f"{name} {bar.label} {bar.text}".strip() for name, group in groups for bar in group)
    drawing = Drawing(title, told)
    y = 0.0
    for name, group in groups:
        if name:
            y += 8 if y else 0
            drawing.text(0, y + 12, name, "strong")
            y += 20
        top = full or max(max(bar.value, bar.mark or 0.0) for bar in group) or 1.0
        for bar in group:
            room = WIDTH - 6.6 * len(bar.text) - 10
            drawing.text(0, y + 11, fitting(bar.label, room))
            drawing.text(WIDTH, y + 11, bar.text, "number", "end")
            drawing.bar(0, y + 16, WIDTH, 10, "track")
            drawing.bar(0, y + 16, WIDTH * bar.value / top, 10, bar.class_)
            if bar.mark is not None:
                x = WIDTH * bar.mark / top
                drawing.line(x, y + 14, x, y + 28, "mark")
            y += 37
    return drawing.svg(y)


def agreement(rows: Sequence[tuple[str, float | None, float]]) -> Markup:
    """A bar up to 1 for each figure, and a mark where chance is."""
    shown = [
        Bar(name, max(value, 0.0), f"{value:.4f}", mark=chance) for name, value, chance in rows if value is not None
    ]
    return bars("Agreement with the dense model", [("", shown)], full=1.0)


def latency(groups: Sequence[tuple[str, Sequence[tuple[str, Mapping[str, Any]]]]]) -> Markup:
    """The median latency of a batch as a bar, the 95th percentile as a mark; groups: as `Report.timed`."""

    def bar(label: str, row: Mapping[str, Any]) -> Bar:
        class_ = "dense" if row["model"] == "dense" else "pruned"
        return Bar(label, row["p50_ms"], f"{row['p50_ms']:.2f} ms", class_, row["p95_ms"])

    return bars("Latency of a batch", [(name, [bar(*row) for row in rows]) for name, rows in groups])


def seconds(stages: Sequence[StageFacts]) -> Markup:
    """How long each stage took."""
    return bars("Time of the stages", [("", [Bar(one.name, one.seconds, duration(one.seconds)) for one in stages])])


def plane(found: Plane) -> Markup:
    """Both models by alignment and uniformity, with an arrow from the dense one."""
    points = [found.dense, found.pruned]
    told = "; ".join(f"{row.name} {row.text(row.dense)} before, {row.text(row.pruned)} after" for row in found.rows)
    drawing = Drawing("Alignment and uniformity", f"{told}; less is better for both")
    frame = _Frame(drawing, *(around([point[axis] for point in points]) for axis in (0, 1)))
    frame.axes("alignment (less is better)", "uniformity (less is better)")
    places = [frame.at(*point) for point in points]
    (x1, y1), (x2, y2) = places
    drawing.line(x1, y1, x2, y2, "way")
    for number, (name, place) in enumerate(zip(("dense", "pruned"), places, strict=True)):
        above = place[1] < places[1 - number][1] or (number == 1 and y1 == y2)
        anchor = "start" if place[0] < frame.left + 50 else "end" if place[0] > frame.right - 50 else "middle"
        drawing.mark(number, *place, name)
        drawing.text(place[0], place[1] + (-11 if above else 20), name, "strong", anchor)
    return drawing.svg(frame.height)


def around(values: Sequence[float]) -> tuple[float, float]:
    """A range around some values, wide enough that a trivial difference looks trivial."""
    middle, extent = (min(values) + max(values)) / 2, max(max(values) - min(values), 0.02)
    return middle - 0.9 * extent, middle + 0.9 * extent


class _Frame:
    """A plot's area with its scales."""

    left, right, top, bottom, height = 44.0, WIDTH - 12.0, 26.0, 246.0, 290.0

    def __init__(self, drawing: Drawing, x: tuple[float, float], y: tuple[float, float]):
        self.drawing, self.x, self.y = drawing, x, y

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def axes(self, xlabel: str, ylabel: str) -> None:
        drawing = self.drawing
        marks = ticks(*self.y)
        for value in marks:
            _, y = self.at(self.x[0], value)
            drawing.line(self.left, y, self.right, y, "grid")
            drawing.text(self.left - 6, y + 4, signed(f"{value:.{digits(marks)}f}"), "number small", "end")
        marks = ticks(*self.x)
        for value in marks:
            x, _ = self.at(value, self.y[0])
            drawing.line(x, self.bottom, x, self.bottom + 4, "axis")
            drawing.text(x, self.bottom + 17, f"{value:.{digits(marks)}f}", "number small", "middle")
        drawing.line(self.left, self.bottom, self.right, self.bottom, "axis")
        drawing.text(self.left, 12, ylabel, "small")
        drawing.text(self.right, self.height - 6, xlabel, "small", "end")


def curve(found: Curve) -> Markup:
    """A line for each kind or repair, as points above and below dense."""
    every = [point for line in found.lines for point in line.points]
    tolerance = -found.tolerance if found.tolerance else 0.0
    low, high = min(tolerance, *(point[2] for point in every)), max(0.0, *(point[3] for point in every))
    room = 0.06 * max(high - low, 0.5)
    told = "; ".join(
        f"{line.name}: " + ", ".join(f"{x:g} % {y:+.2f}" for x, y, *_ in line.points) for line in found.lines
    )
    drawing = Drawing(found.title, told)
    frame = _Frame(drawing, (0.0, max(point[0] for point in every) or 1.0), (low - room, high + room))
    frame.axes("removed, %", "points above or below dense")
    across: Callable[[float], tuple[float, float]] = lambda y: frame.at(0.0, y)  # noqa: E731
    drawing.line(frame.left, across(0.0)[1], frame.right, across(0.0)[1], "zero")
    if found.tolerance:
        drawing.line(frame.left, across(tolerance)[1], frame.right, across(tolerance)[1], "bound")
    if found.chosen is not None:
        x, _ = frame.at(found.chosen, 0.0)
        drawing.line(x, frame.top, x, frame.bottom, "chosen")
    for number, line in enumerate(found.lines):
        colour = f"line{number % 4}"
        if any(point[2] != point[3] for point in line.points):
            upper = [frame.at(x, high) for x, _, _, high in line.points]
            lower = [frame.at(x, low) for x, _, low, _ in reversed(line.points)]
            drawing.path([*upper, *lower], f"band {colour}", closed=True)
        drawing.path([frame.at(x, y) for x, y, *_ in line.points], f"line {colour}")
        for x, y, *_ in line.points:
            drawing.mark(number, *frame.at(x, y), colour, f"{line.name}, {x:g} %: {y:+.2f}")
    height = frame.height
    for number, line in enumerate(found.lines):
        drawing.mark(number, frame.left + 6, height + 8, f"line{number % 4}")
        drawing.text(frame.left + 18, height + 12, fitting(line.name, WIDTH - frame.left - 24))
        height += 20
    for class_, text in (
        ("chosen", "taken" if found.chosen is not None else ""),
        ("bound", f"what may be lost: {found.tolerance:g} points" if found.tolerance else ""),
    ):
        if text:
            drawing.line(frame.left - 2, height + 8, frame.left + 14, height + 8, class_)
            drawing.text(frame.left + 18, height + 12, text)
            height += 20
    return drawing.svg(height)


def shades(scores: Sequence[Sequence[float]]) -> list[list[int]]:
    """For each head the fifth that its score lies in, among those of all layers: 0 for the lowest."""
    order = sorted((score, layer, head) for layer, row in enumerate(scores) for head, score in enumerate(row))
    found = [[0] * len(row) for row in scores]
    for rank, (_, layer, head) in enumerate(order):
        found[layer][head] = rank * SHADES // len(order)
    return found


def head_map(cut: Cut) -> Markup:
    """A row of cells per layer: how dark by the score, crossed out where the head has left."""
    kept, count, *_ = cut.counts()
    drawing = Drawing("Heads that stay", f"{kept} of {count} heads stay; by layer: {_by_layer(cut)}")
    wide = max(map(len, cut.heads))
    left = 30.0
    cell = min(28.0, (WIDTH - left) / wide)
    shaded = shades(cut.scores) if cut.scores else [[SHADES // 2] * len(row) for row in cut.heads]
    for head in range(wide):
        if wide <= 16 or head % 2 == 0:
            drawing.text(left + cell * (head + 0.5), 10, str(head), "number small", "middle")
    for layer, row in enumerate(cut.heads):
        y = 16 + cell * layer
        drawing.text(left - 8, y + cell / 2 + 4, str(layer), "number small", "end")
        for head, stays in enumerate(row):
            x = left + cell * head
            score = f", score {cut.scores[layer][head]:.4g}" if cut.scores else ""
            told = f"layer {layer}, head {head}{score}: {'stays' if stays else 'removed'}"
            _cell(drawing, x + 1, y + 1, cell - 2, f"s{shaded[layer][head]}" if stays else "", told)
    y = 16 + cell * len(cut.heads) + 10
    _cell(drawing, left, y, 14, "", "")
    drawing.text(left + 20, y + 11, "removed")
    y += 21
    if not cut.scores:
        _cell(drawing, left, y, 14, f"s{SHADES // 2}", "")
        drawing.text(left + 20, y + 11, "stays")
        return drawing.svg(y + 18)
    for shade in range(SHADES):
        _cell(drawing, left + 16 * shade, y, 14, f"s{shade}", "")
    drawing.text(left + 16 * SHADES + 6, y + 11, "stays, by score from low to high")
    return drawing.svg(y + 18)


def _cell(drawing: Drawing, x: float, y: float, size: float, class_: str, told: str) -> None:
    if class_:
        drawing.bar(x, y, size, size, class_, told)
        return
    drawing.bar(x, y, size, size, "gone", told)
    inset = size * 0.28
    for y1, y2 in ((y + inset, y + size - inset), (y + size - inset, y + inset)):
        drawing.line(x + inset, y1, x + size - inset, y2, "cross")


def _by_layer(cut: Cut) -> str:
    return ", ".join(f"{layer}: {sum(row)} of {len(row)}" for layer, row in enumerate(cut.heads))


def neuron_density(cut: Cut) -> Markup:
    """How much of each layer's neurons stays."""
    told = ", ".join(f"layer {layer}: {kept:,} of {size:,}" for layer, (kept, size) in enumerate(cut.neurons))
    drawing = Drawing("Neurons that stay", told)
    left, right, step = 30.0, WIDTH - 106.0, 22.0
    for layer, (kept, size) in enumerate(cut.neurons):
        y = step * layer
        share = kept / size if size else 0.0
        drawing.text(left - 8, y + 14, str(layer), "number small", "end")
        drawing.bar(left, y + 4, right - left, 12, "track")
        drawing.bar(left, y + 4, share * (right - left), 12, "pruned")
        text = "layer removed" if layer in cut.gone else f"{kept:,} of {size:,}"
        drawing.text(WIDTH, y + 14, text, "number", "end")
    return drawing.svg(step * len(cut.neurons) + 4)
