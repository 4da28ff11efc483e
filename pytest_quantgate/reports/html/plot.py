"""Quality against size as a plot: places of points, intervals, labels, axes and the Pareto front.

Everything is in the units of the drawing's view box; the template writes the SVG.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 14, 44
_CHARACTER, _LINE = 6.3, 13
"""How large a label's character and line are."""

_LEAST_GAP = 22
"""The least distance between two ticks."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A cell to draw: its size, its figure with an interval, and a description."""

    label: str
    description: str
    size: float
    value: float
    low: float
    high: float
    is_red: bool
    has_matrix: bool
    device: str = ""
    matrix: str = "none"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point in its place; its label is "" where it has no room."""

    point: Point
    x: float
    y: float
    y_low: float
    y_high: float
    label: str
    label_x: float
    label_y: float
    anchor: str


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A line of an axis and what stands at it."""

    place: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawing; ``front`` are the corners of the Pareto front as SVG's ``points``."""

    title: str
    x_title: str
    y_title: str
    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    front: str
    on_front: tuple[str, ...]
    devices: tuple[str, ...] = ()
    matrices: tuple[str, ...] = ()
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """Places values between two ends by a scale that grows with them."""

    scale: Callable[[float], float]
    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        share = (self.scale(value) - self.low) / (self.high - self.low)
        return self.first + share * (self.last - self.first)

    def ticks(self, values: Sequence[float], unit: str = "") -> tuple[Tick, ...]:
        """Return those of some values that lie on the axis and have room beside each other."""
        ticks: list[Tick] = []
        for value in values:
            if self.low <= self.scale(value) <= self.high:
                place = self(value)
                if not ticks or abs(place - ticks[-1].place) >= _LEAST_GAP:
                    text = f"{value:,.6g}{unit}".replace("-", "−")
                    ticks.append(Tick(place=place, text=text))
        return tuple(ticks)


def _axis(
    scale: Callable[[float], float],
    values: Sequence[float],
    margins: tuple[float, float],
    ends: tuple[float, float],
) -> _Axis:
    low, high = min(map(scale, values)), max(map(scale, values))
    spread = (high - low) or 1.0
    return _Axis(
        scale=scale,
        low=low - margins[0] * spread,
        high=high + margins[1] * spread,
        first=ends[0],
        last=ends[1],
    )


def make_plot(
    points: Sequence[Point], title: str, y_title: str, *, is_log: bool, unit: str = ""
) -> Plot | None:
    """Place points with a finite figure; None for fewer than two of them.

    Sizes have a logarithmic axis, and so have figures that cannot be below zero (``is_log``);
    others have one that is linear around zero and logarithmic beyond.
    """
    drawn = [p for p in points if math.isfinite(p.value) and (p.value > 0 or not is_log)]
    if len(drawn) < 2:
        return None
    bounds = [bound for p in drawn for bound in (p.value, *_finite(p, is_log=is_log))]
    x_axis = _axis(math.log, [p.size for p in drawn], (0.06, 0.16), (_LEFT, WIDTH - _RIGHT))
    y_axis = _axis(
        math.log if is_log else math.asinh, bounds, (0.07, 0.07), (HEIGHT - _BOTTOM, _TOP)
    )
    round_numbers = [factor * 10.0**power for power in range(-7, 8) for factor in (1, 2, 5)]
    y_ticks = round_numbers
    if not is_log:
        y_ticks = [-value for value in reversed(round_numbers)] + [0.0] + round_numbers
        y_ticks = [value for value in y_ticks if abs(value) >= 1 or value == 0]
    front = pareto(drawn)
    return Plot(
        title=title,
        x_title="file size in MB (log)",
        y_title=y_title,
        marks=_marks(drawn, x_axis, y_axis, is_log=is_log),
        x_ticks=x_axis.ticks(_size_ticks(drawn)),
        y_ticks=y_axis.ticks(y_ticks, unit),
        front=" ".join(f"{x_axis(p.size):.1f},{y_axis(p.value):.1f}" for p in front),
        on_front=tuple(p.label for p in front),
        devices=tuple(dict.fromkeys(p.device for p in drawn)),
        matrices=tuple(dict.fromkeys(p.matrix for p in drawn)),
    )


def _size_ticks(points: Sequence[Point]) -> list[float]:
    """Return round sizes: finer ones where all files are of nearly one size."""
    sizes = [point.size for point in points]
    factors: tuple[float, ...] = (1, 2, 5)
    if max(sizes) < 3 * min(sizes):
        factors = tuple(round(1 + 0.1 * n, 1) for n in (*range(10), *range(10, 90, 5)))
    elif max(sizes) < 12 * min(sizes):
        factors = (1, 1.5, 2, 3, 4, 5, 6, 8)
    return [factor * 10.0**power for power in range(-3, 8) for factor in factors]


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points than which none is both no larger and better, smallest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.size, p.value)):
        if not front or point.value < front[-1].value:
            front.append(point)
    return front


def _finite(point: Point, *, is_log: bool) -> tuple[float, float]:
    """Return an interval's bounds as far as they can be drawn."""
    low = point.low if math.isfinite(point.low) and (point.low > 0 or not is_log) else point.value
    return low, point.high if math.isfinite(point.high) else point.value


def _marks(
    points: Sequence[Point],
    place_x: Callable[[float], float],
    place_y: Callable[[float], float],
    *,
    is_log: bool,
) -> tuple[Mark, ...]:
    marks = []
    taken = [(place_x(p.size) - 5, place_y(p.value) - 5, 10.0, 10.0) for p in points]
    for point in sorted(points, key=lambda p: -p.size):
        x, y = place_x(point.size), place_y(point.value)
        low, high = _finite(point, is_log=is_log)
        width = _CHARACTER * len(point.label)
        label, label_x, label_y, anchor = "", x, y, "start"
        for dx, dy, side in (
            *((8, 4, "start"), (-8, 4, "end"), (6, -8, "start"), (6, 16, "start")),
            *((-6, -8, "end"), (-6, 16, "end"), (8, -20, "start"), (-8, 28, "end")),
        ):
            left = x + dx - (width if side == "end" else 0)
            box = (left, y + dy - 10, width, _LINE)
            fits = left > _LEFT and left + width < WIDTH and _TOP <= box[1] < HEIGHT - _BOTTOM - 8
            if fits and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                label, label_x, label_y, anchor = point.label, x + dx, y + dy, side
                break
        marks.append(
            Mark(
                point=point,
                x=x,
                y=y,
                y_low=place_y(low),
                y_high=place_y(high),
                label=label,
                label_x=label_x,
                label_y=label_y,
                anchor=anchor,
            )
        )
    return tuple(marks)


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return (
        one[0] < other[0] + other[2]
        and other[0] < one[0] + one[2]
        and one[1] < other[1] + other[3]
        and other[1] < one[1] + one[3]
    )
