"""A series as a line of block characters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from pytest_quantgate.stats.change_points import FLOOR_WIDTHS

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], *, floor: float, width: int) -> str:
    """Return one character a value, or a mean of several where there are more than ``width``.

    A spread that means nothing (below some floors) is drawn as a flat line in the middle.
    """
    if len(values) > width:
        edges = [n * len(values) // width for n in range(width + 1)]
        values = [fmean(values[first:last]) for first, last in pairwise(edges)]
    low, high = min(values), max(values)
    if high - low < FLOOR_WIDTHS * floor:
        return BARS[3] * len(values)
    return "".join(BARS[round((value - low) / (high - low) * (len(BARS) - 1))] for value in values)
