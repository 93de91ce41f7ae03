"""A small SVG drawing: shapes with classes, so that the page's style sheet colours them, in light and dark alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparsecse.reporting.markup import Markup, element, join

WIDTH = 360
"""Units across every chart: on a screen of 390 px about one each, so that text is as large as it is meant."""

_CHARACTER = 6.4  # units, of text of 12 units: a little more than the mean of usual fonts


class Drawing:
    """Shapes in units of `WIDTH` across; x to the right, y down."""

    def __init__(self, title: str, description: str):
        self._head = (element("title", title), element("desc", description))
        self._parts: list[Markup] = []

    def add(self, name: str, class_: str, *children: object, **attributes: object) -> None:
        self._parts.append(element(name, *children, class_=class_, **attributes))

    def text(self, x: float, y: float, text: str, class_: str = "", anchor: str = "start") -> None:
        self.add("text", class_, text, x=x, y=y, text_anchor=anchor)

    def line(self, x1: float, y1: float, x2: float, y2: float, class_: str) -> None:
        self.add("line", class_, x1=x1, y1=y1, x2=x2, y2=y2)

    def bar(self, x: float, y: float, width: float, height: float, class_: str, told: str = "") -> None:
        """A rectangle; told: what a pointer that rests on it shows."""
        children = [element("title", told)] if told else []
        self.add("rect", class_, *children, x=x, y=y, width=max(width, 0.0), height=height, rx=1.5)

    def path(self, points: Sequence[tuple[float, float]], class_: str, *, closed: bool = False) -> None:
        steps = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
        self.add("path", class_, d=steps + ("Z" if closed else ""))

    def mark(self, shape: int, x: float, y: float, class_: str, told: str = "") -> None:
        """A circle, square, triangle or diamond, by number."""
        children = [element("title", told)] if told else []
        if shape % 4 == 0:
            self.add("circle", class_, *children, cx=x, cy=y, r=4.0)
            return
        corners = {1: ((-3.7, -3.7), (3.7, -3.7), (3.7, 3.7), (-3.7, 3.7)), 2: ((0, -4.8), (4.6, 3.6), (-4.6, 3.6))}
        points = corners.get(shape % 4, ((0, -5), (5, 0), (0, 5), (-5, 0)))
        self.add("polygon", class_, *children, points=" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in points))

    def svg(self, height: float) -> Markup:
        """The finished image, `WIDTH` wide."""
        return element(
            "svg",
            *self._head,
            join(self._parts),
            viewBox=f"0 0 {WIDTH} {math.ceil(height)}",
            role="img",
            xmlns="http://www.w3.org/2000/svg",
        )


def fitting(text: str, width: float) -> str:
    """A text that takes about `width` units at most, its end left out where it is longer."""
    count = max(1, int(width / _CHARACTER))
    return text if len(text) <= count else text[: count - 1] + "\u2026"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= count)
    return [round(step * number, 10) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def digits(values: Sequence[float]) -> int:
    """Digits after the point that tell these ticks apart."""
    return next((n for n in range(6) if all(abs(round(v, n) - v) < 1e-9 for v in values)), 6)
