"""What a sweep found: a row for all seeds of the same settings, and the plot of quality against sparsity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from sparsecse.packing.folder import model_name
from sparsecse.reporting.plots import plain, png
from sparsecse.sweeps.grid import value_text, varied

MODEL, SEED, SPARSITY = "model", "seed", "sparsity"


@dataclass(frozen=True)
class Spread:
    """The mean over seeds, its standard deviation (None of one), and the mean of the dense model's figure."""

    mean: float
    deviation: float | None
    dense: float

    @classmethod
    def of(cls, figures: Sequence[Mapping[str, float]]) -> Spread:
        values = [one["pruned"] for one in figures]
        deviation = stdev(values) if len(values) > 1 else None
        return cls(fmean(values), deviation, fmean([one["dense"] for one in figures]))

    @property
    def text(self) -> str:
        """`82.10 ± 0.12`."""
        return f"{self.mean:.2f}" + ("" if self.deviation is None else f" ± {self.deviation:.2f}")


@dataclass(frozen=True)
class Group:
    """Cells that differ in their seed alone.

    settings: what the sweep varies besides the seed, as texts. sparsity: that was asked for, or chosen; None without.
    figures: by the kind of tasks. kept: of the dense model's parameters.
    """

    settings: Mapping[str, str]
    sparsity: float | None
    cells: int
    figures: Mapping[str, Spread]
    kept: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def groups_of(content: Mapping[str, Any]) -> list[Group]:
    """The groups of a sweep's finished cells, in their order; content: as `Sweep.content` gives it."""
    cells = content["cells"]
    names = [name for name in varied([cell["settings"] for cell in cells]) if name != SEED]
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for cell in cells:
        if cell["state"] == "finished":
            values = tuple(value_text(cell["settings"].get(name)) for name in names)
            found.setdefault(values, []).append(cell["result"])
    models = _model_names([cell["settings"][MODEL] for cell in cells]) if MODEL in names else {}
    return [
        _group(
            {name: models[value] if name == MODEL else value for name, value in zip(names, values, strict=True)},
            results,
        )
        for values, results in found.items()
    ]


def _model_names(models: Sequence[str]) -> dict[str, str]:
    """A short name for each model, or the whole one where two have the same short name."""
    short = {model: model_name(model) for model in models}
    return {model: model if list(short.values()).count(name) > 1 else name for model, name in short.items()}


def _group(settings: Mapping[str, str], results: Sequence[Mapping[str, Any]]) -> Group:
    sparsities = [one["sparsity"] for one in results if one["sparsity"] is not None]
    return Group(
        settings,
        fmean(sparsities) if sparsities else None,
        len(results),
        {kind: Spread.of([one["figures"][kind] for one in results]) for kind in results[0]["figures"]},
        fmean([one["parameters"] / one["dense_parameters"] for one in results]),
    )


def table_of(groups: Sequence[Group]) -> tuple[list[str], list[list[str]], int]:
    """Header and rows, and how many of the first columns are settings.

    A kind of tasks has its mean (and standard deviation over seeds) and the change against the dense model.
    """
    names = list(groups[0].settings) if groups else []
    kinds = list(dict.fromkeys(kind for group in groups for kind in group.figures))
    seeds = any(group.cells > 1 for group in groups)
    header = [*names, *(["seeds"] if seeds else [])]
    for kind in kinds:
        header += [kind, "change"]
    rows = []
    for group in groups:
        row = [*group.settings.values(), *([str(group.cells)] if seeds else [])]
        for kind in kinds:
            spread = group.figures.get(kind)
            row += ["-", "-"] if spread is None else [spread.text, f"{spread.mean - spread.dense:+.2f}"]
        rows.append([*row, f"{group.kept:.1%}"])
    return [*header, "kept"], rows, len(names)


def can_plot(groups: Sequence[Group]) -> bool:
    """Whether there is a quality and a sparsity to draw it against."""
    return any(group.sparsity is not None and group.figures for group in groups)


def plot(groups: Sequence[Group], path: Path, name: str) -> None:
    """Quality against sparsity, an axes for each kind of tasks; name: of the sweep's file.

    A line for each combination of the other settings; bars are standard deviations over seeds, dashes dense models.
    """
    drawn = [group for group in groups if group.sparsity is not None]
    kinds = list(dict.fromkeys(kind for group in drawn for kind in group.figures))
    lines: dict[str, list[Group]] = {}
    for group in drawn:
        lines.setdefault(_label(group), []).append(group)
    with png(path, (max(7.0, 5.0 * len(kinds)), 4.5), 150, "sparsecse sweep") as figure:
        every = figure.subplots(1, len(kinds), squeeze=False)[0]
        for axes, kind in zip(every, kinds, strict=True):
            _draw(axes, kind, lines)
        bars = "; bars: deviation over seeds" if any(group.cells > 1 for group in drawn) else ""
        figure.suptitle(f"{plain(name)} (dashed: dense{bars})", fontsize=11)


def _label(group: Group) -> str:
    others = [f"{name} {value or '-'}" for name, value in group.settings.items() if name not in (SPARSITY, MODEL)]
    return plain(", ".join([*([group.settings[MODEL]] if MODEL in group.settings else []), *others]))


def _draw(axes: Any, kind: str, lines: Mapping[str, Sequence[Group]]) -> None:
    dense: dict[float, str] = {}
    for number, (label, groups) in enumerate(lines.items()):
        found = [(group.sparsity or 0.0, group.figures[kind]) for group in groups if kind in group.figures]
        points = sorted(found, key=lambda point: point[0])
        if not points:
            continue
        bars = [spread.deviation or 0.0 for _, spread in points]
        axes.errorbar(
            [100 * sparsity for sparsity, _ in points],
            [spread.mean for _, spread in points],
            yerr=bars if any(bars) else None,
            color=f"C{number}",
            marker="os^Dvp*X"[number % 8],
            markersize=5,
            capsize=3,
            label=label or None,
        )
        for _, spread in points:
            dense.setdefault(round(spread.dense, 4), f"C{number}")
    for figure, colour in dense.items():
        axes.axhline(figure, color=colour if len(dense) > 1 else "black", linewidth=1, linestyle="--")
    axes.set_xlabel("sparsity, %")
    axes.set_ylabel(f"{kind}, x100")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8)
