"""A figure over versions as a small line chart, and as a line without axes for a table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from pytest_quantgate.reports.history.series import Point, Series
from pytest_quantgate.reports.html.plot import Tick
from pytest_quantgate.stats.change_points import FLOOR_WIDTHS

WIDTH, HEIGHT = 340, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 10, 12, 26
LINE_WIDTH, LINE_HEIGHT = 120, 22
_N_TICKS = 4
_MOST_PLACES = 240
"""Places of a table's line, beyond which it is thinned out."""


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A version's value in its place; ``is_change`` where a new level begins."""

    x: float
    y: float
    description: str
    is_change: bool


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A series drawn: all coordinates are of the view box."""

    title: str
    dots: tuple[Dot, ...]
    line: str
    levels: tuple[tuple[float, float, float], ...]
    ticks: tuple[Tick, ...]
    first: str
    last: str
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


def make_chart(series: Series) -> Chart:
    """Return the chart of a series, its levels as lines."""
    low, high = _range(series)
    x = _scale(0, max(1, len(series.points) - 1), _LEFT + 8, WIDTH - _RIGHT - 8)
    y = _scale(low, high, HEIGHT - _BOTTOM, _TOP)
    places = {change.place for change in series.changes}
    dots = tuple(
        Dot(
            x=x(n),
            y=y(point.value),
            description=describe(series, point),
            is_change=n in places,
        )
        for n, point in enumerate(series.points)
    )
    ends = [0, *sorted(places), len(series.points)]
    versions = [series.points[n].at.version for n in (0, -1)]
    days = [version.day[:10] for version in versions]
    names = days if days[0] != days[1] else [version.name for version in versions]
    levels = []
    for first, last in pairwise(ends):
        values = series.values[first:last]
        levels.append((x(first), x(last - 1), y(sum(values) / len(values))))
    return Chart(
        title=series.name.title,
        dots=dots,
        line=" ".join(f"{dot.x:.1f},{dot.y:.1f}" for dot in dots),
        levels=tuple(levels),
        ticks=_ticks(series, low, high),
        first=names[0],
        last=names[1],
    )


def describe(series: Series, point: Point) -> str:
    """Return what a point says: its value, and when and by what it was measured."""
    version = point.at.version
    words = (version.name, version.day, version.subject, version.engine)
    value = f"{series.name.title.removesuffix(' MB').removesuffix(' t/s')}"
    unit = series.name.title.removeprefix(value)
    return f"{value} {series.name.figure.text(point.value)}{unit}, {', '.join(filter(None, words))}"


def table_line(series: Series) -> tuple[str, tuple[tuple[float, float], ...]]:
    """Return the points of a line without axes, and the places where a new level begins."""
    low, high = _range(series)
    x = _scale(0, max(1, len(series.points) - 1), 4, LINE_WIDTH - 4)
    y = _scale(low, high, LINE_HEIGHT - 3, 3)
    step = max(1, math.ceil(len(series.points) / _MOST_PLACES))
    kept = sorted({*range(0, len(series.points), step), len(series.points) - 1})
    line = " ".join(f"{x(n):.1f},{y(series.values[n]):.1f}" for n in kept)
    marks = tuple((x(change.place), y(series.values[change.place])) for change in series.changes)
    return line, marks


def _range(series: Series) -> tuple[float, float]:
    """Return the ends of the vertical axis; a spread that means nothing stays narrow."""
    low, high = min(series.values), max(series.values)
    least = 2 * FLOOR_WIDTHS * series.floor
    margin = max(0.08 * (high - low), (least - (high - low)) / 2)
    return low - margin, high + margin


def _scale(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    return lambda value: first + (value - low) * (last - first) / (high - low)


def _ticks(series: Series, low: float, high: float) -> tuple[Tick, ...]:
    y = _scale(low, high, HEIGHT - _BOTTOM, _TOP)
    text = series.name.figure.text
    raw = (high - low) / _N_TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    ticks: dict[str, Tick] = {}
    for n in range(math.ceil(low / step), math.floor(high / step) + 1):
        # Two ticks of one text would say nothing.
        ticks.setdefault(text(n * step), Tick(place=y(n * step), text=text(n * step)))
    return tuple(ticks.values())
