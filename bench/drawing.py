"""Draws panels of a Grafana dashboard from its JSON and what a real Prometheus answers: an impression, not Grafana."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any, Final

import matplotlib as mpl
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlproducer.monitoring.dashboards import filled

Ask = Callable[[str], list[dict[str, Any]]]

COLOURS: Final = {
    "green": "#73bf69", "yellow": "#f2cc0c", "red": "#f2495c", "orange": "#ff9830", "blue": "#5794f2",
    "purple": "#b877d9", "dark-red": "#c4162a", "text": "#8e8e9a",
}  # fmt: skip  # a palette
PALETTE: Final = (
    "#73bf69",
    "#f2cc0c",
    "#8ab8ff",
    "#ff9830",
    "#f2495c",
    "#5794f2",
    "#b877d9",
    "#96d98d",
    "#705da0",
    "#c0d8ff",
)
PAGE, PANEL, GRID, TEXT = "#111217", "#181b1f", "#2c3235", "#ccccdc"
CELL: Final = 0.40
"""Inches of one line of Grafana's grid of 24 columns."""
WIDTH: Final = 15.0
ROW_LINES: Final = 1.2


@dataclass(frozen=True, slots=True)
class Source:
    """How a panel's queries are asked."""

    now: Ask
    over_time: Ask
    values: Mapping[str, str]


@dataclass(slots=True)
class Line:
    """`times` in Unix seconds."""

    legend: str
    times: list[float]
    numbers: list[float]
    colour: str = field(default="")


def draw(board: Mapping[str, Any], rows: Sequence[str], source: Source, file: Path) -> None:
    """The panels below those rows, where the grid has them."""
    mpl.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9, "text.color": TEXT})
    chosen = _chosen(board, rows)
    first = min(panel["gridPos"]["y"] for panel in chosen)
    lines = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in chosen) - first
    height = lines * CELL
    figure = Figure(figsize=(WIDTH, height), facecolor=PAGE)
    for panel in chosen:
        at = panel["gridPos"]
        left, width = at["x"] / 24, at["w"] / 24
        bottom, tall = 1 - (at["y"] - first + at["h"]) / lines, at["h"] / lines
        if panel["type"] == "row":
            figure.text(left + 0.004, bottom + tall / 2, panel["title"], size=12, weight="bold", va="center")
            continue
        axes = figure.add_axes((left + 0.003, bottom + 0.05 / height, width - 0.006, tall - 0.1 / height))
        axes.set(facecolor=PANEL, xticks=[], yticks=[])
        axes.spines[:].set_color(GRID)
        {"stat": _tile, "timeseries": _graph, "state-timeline": _timeline}[panel["type"]](axes, panel, source)
    figure.savefig(file, dpi=100, facecolor=PAGE, pil_kwargs={"optimize": True})


def _chosen(board: Mapping[str, Any], rows: Sequence[str]) -> list[dict[str, Any]]:
    found, within = [], False
    for panel in board["panels"]:
        if panel["type"] == "row":
            within = panel["title"] in rows
        if within:
            found.append(panel)
    return found


def _lines(panel: Mapping[str, Any], source: Source) -> list[Line]:
    fixed = {
        each["matcher"]["options"]: each["properties"][0]["value"]["fixedColor"]
        for each in panel["fieldConfig"]["overrides"]
    }
    found = []
    for target in panel["targets"]:
        ask = source.now if target.get("instant") else source.over_time
        for series in ask(filled(target["expr"], source.values)):
            pairs = _with_gaps(series["values"]) if "values" in series else [series["value"]]
            moments = [float(moment) for moment, _ in pairs]
            legend = _legend(target.get("legendFormat", ""), series["metric"])
            found.append(Line(legend, moments, [float(number) for _, number in pairs]))
    for number, line in enumerate(found):
        line.colour = COLOURS.get(fixed.get(line.legend, ""), PALETTE[number % len(PALETTE)])
    return found


def _with_gaps(pairs: list[list[Any]]) -> list[list[Any]]:
    """A moment without a number where Prometheus had none, so that no line is drawn across."""
    if len(pairs) < 2:
        return pairs
    step = min(after[0] - before[0] for before, after in pairwise(pairs))
    found = pairs[:1]
    for before, after in pairwise(pairs):
        if after[0] - before[0] > 1.5 * step:
            found.append([before[0] + step, "NaN"])
        found.append(after)
    return found


def _legend(form: str, labels: Mapping[str, str]) -> str:
    return Template(form.replace("{{", "${").replace("}}", "}")).safe_substitute(labels)


def _tile(axes: Axes, panel: Mapping[str, Any], source: Source) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    lines = _lines(panel, source)
    _title(axes, panel["title"])
    room = (0.04, 0.08, 0.92, 0.66)
    shown = [(line.legend, *_value(line.numbers[-1], defaults)) for line in lines] or [
        ("", defaults.get("noValue", "–"), COLOURS["text"])
    ]
    for number, (legend, text, colour) in enumerate(shown):
        width = room[2] / len(shown)
        part = axes.inset_axes((room[0] + number * width, room[1], width * 0.97, room[3]))
        part.set(facecolor=colour, xticks=[], yticks=[])
        part.spines[:].set_visible(False)
        ink = "#111217" if colour != COLOURS["dark-red"] else "#ffffff"
        size = min(20, 150 / len(shown) / max(len(text), 4))
        part.text(0.5, 0.58 if legend else 0.5, text, size=size, weight="bold", color=ink, ha="center", va="center")
        if legend:
            part.text(0.5, 0.2, legend, size=7, color=ink, ha="center", va="center")


def _value(number: float, defaults: Mapping[str, Any]) -> tuple[str, str]:
    """What is written and its colour: of its mapping, else of the highest threshold that it reaches."""
    for mapping in defaults.get("mappings", []):
        named = mapping["options"].get(f"{number:g}")
        if named:
            return named["text"], COLOURS[named["color"]]
    reached = [
        step["color"] for step in defaults["thresholds"]["steps"] if step["value"] is None or number >= step["value"]
    ]
    return written(number, defaults["unit"], defaults.get("decimals")), COLOURS[reached[-1]]


def _graph(axes: Axes, panel: Mapping[str, Any], source: Source) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    custom, lines = defaults.get("custom", {}), _lines(panel, source)
    _title(axes, panel["title"])
    plot = _plot(axes, bottom=0.19)
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    if stacked:
        _stack(plot, lines, bars=custom.get("drawStyle") == "bars")
    else:
        for line in lines:
            plot.plot(line.times, line.numbers, color=line.colour, linewidth=1.6)
            plot.fill_between(line.times, line.numbers, color=line.colour, alpha=0.10, linewidth=0)
    for step in defaults.get("thresholds", {}).get("steps", []):
        if "thresholdsStyle" in custom and step["value"] is not None:
            plot.axhline(step["value"], color=COLOURS[step["color"]], linestyle="--", linewidth=1)
    top = defaults.get("max") or max((n for line in lines for n in line.numbers if math.isfinite(n)), default=0)
    if not stacked or not top:
        plot.set_ylim(0, (top or 1) * 1.05)
    plot.set_ylim(bottom=0)
    plot.yaxis.set_major_locator(ticker.MaxNLocator(5, integer=defaults["unit"] == "short"))
    plot.yaxis.set_major_formatter(lambda number, _: written(number, defaults["unit"], None))
    _legends(axes, lines)


def _stack(plot: Axes, lines: Sequence[Line], *, bars: bool) -> None:
    if not lines:
        return
    times = lines[0].times
    values = [[number if math.isfinite(number) else 0 for number in line.numbers] for line in lines]
    values = [each + [0.0] * (len(times) - len(each)) for each in values]
    colours = [line.colour for line in lines]
    plot.stackplot(
        times, *values, colors=colours, alpha=0.8 if bars else 0.55, step="post" if bars else None, linewidth=0
    )


def _timeline(axes: Axes, panel: Mapping[str, Any], source: Source) -> None:
    defaults, lines = panel["fieldConfig"]["defaults"], _lines(panel, source)
    _title(axes, panel["title"])
    plot = _plot(axes, bottom=0.24, left=0.16)
    for place, line in enumerate(reversed(lines)):
        for start, end, number in _spells(line):
            text, colour = _value(number, {**defaults, "unit": "short"})
            plot.broken_barh([(start, end - start)], (place - 0.4, 0.8), facecolors=colour, alpha=0.85)
            if end - start > 14:  # else the word is wider than its bar
                ink = "#ffffff" if colour == COLOURS["dark-red"] else "#111217"
                plot.text((start + end) / 2, place, text, color=ink, ha="center", va="center", size=8)
    plot.set_yticks(range(len(lines)), [line.legend for line in reversed(lines)])
    plot.grid(visible=False, axis="y")
    named = [option for mapping in defaults["mappings"] for option in mapping["options"].values()]
    seen = {_value(number, {**defaults, "unit": "short"})[0] for line in lines for number in line.numbers}
    _legends(axes, [Line(each["text"], [], [1.0], COLOURS[each["color"]]) for each in named if each["text"] in seen])


def _spells(line: Line) -> list[tuple[float, float, float]]:
    """From when to when the state stayed the same."""
    found: list[tuple[float, float, float]] = []
    for moment, number in zip(line.times, line.numbers, strict=True):
        if found:
            start, _, last = found[-1]
            found[-1] = (start, moment, last)
        if not found or found[-1][2] != number:
            found.append((moment, moment, number))
    return found


def _title(axes: Axes, text: str) -> None:
    axes.text(0.02, 0.97, text, transform=axes.transAxes, va="top", size=9.5)


def _plot(axes: Axes, *, bottom: float, left: float = 0.11) -> Axes:
    plot = axes.inset_axes((left, bottom, 0.97 - left, 0.84 - bottom))
    plot.set_facecolor(PANEL)
    plot.spines[:].set_visible(False)
    plot.grid(color=GRID, linewidth=0.6)
    plot.set_axisbelow(True)
    plot.tick_params(colors=TEXT, labelsize=7.5, length=0)
    plot.xaxis.set_major_locator(ticker.MultipleLocator(30))
    plot.xaxis.set_major_formatter(lambda moment, _: time.strftime("%H:%M:%S", time.gmtime(moment)))
    plot.margins(x=0)
    return plot


def _legends(axes: Axes, lines: Sequence[Line]) -> None:
    """Of what is not 0 all the time; Grafana would name all."""
    named = [line for line in lines if any(number > 0 for number in line.numbers)] or lines[:3]
    at, low = 0.02, 0.05
    for line in named:
        width = (len(line.legend) * 5.4 + 26) / (axes.bbox.width * 1.0)
        if at + width > 1:
            break
        axes.text(at, low, "━", color=line.colour, transform=axes.transAxes, size=9, va="center")
        axes.text(at + 14 / axes.bbox.width, low, line.legend, transform=axes.transAxes, size=7.5, va="center")
        at += width


def written(number: float, unit: str, decimals: int | None) -> str:
    """A number with Grafana's units, as far as the dashboards use them."""
    if not math.isfinite(number):
        return "–"
    match unit:
        case "percentunit":
            return f"{number * 100:.{0 if decimals is None else decimals}f}%"
        case "s":
            return _scaled(number, ((1e-3, 1e-6, "µs"), (1.0, 1e-3, "ms"), (120.0, 1.0, "s"), (7200.0, 60.0, "min")))
        case "bytes":
            return _scaled(number, ((1024.0, 1.0, "B"), (1024.0**2, 1024.0, "KiB"), (1024.0**3, 1024.0**2, "MiB")))
        case "ops":
            return f"{number:.3g} ops/s" if decimals is None else f"{number:.{decimals}f} ops/s"
        case _:
            return f"{number:,.0f}" if abs(number - round(number)) < 1e-6 or abs(number) >= 10 else f"{number:.1f}"


def _scaled(number: float, steps: Sequence[tuple[float, float, str]]) -> str:
    if number == 0:
        return "0"
    size, unit = next(((size, unit) for limit, size, unit in steps if abs(number) < limit), steps[-1][1:])
    return f"{number / size:.3g} {unit}"
