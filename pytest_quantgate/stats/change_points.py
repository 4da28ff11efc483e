"""Where the level of a series changes: candidates from ruptures, each confirmed by a t-test.

ruptures finds the segmentation that minimizes the squared error plus a penalty for each change
(PELT, Killick et al. 2012). The penalty alone has no level that holds for five values as for two
hundred; so each candidate must also be larger than chance, with the scatter estimated within the
segments and the level divided by the places where a change could be (Bonferroni), and larger than
what is worth naming. ``benchmarks/history_changes.py`` measures false alarms and power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, median

import numpy as np
from scipy.stats import t

LEVEL = 0.001
"""The probability of a false alarm in a series without a change."""

PENALTY = 3.0
"""The price of a change, in squared standard deviations times the logarithm of the length."""

FLOOR_WIDTHS = 3.0
"""A change is at least so many floors, whatever the scatter."""

_MAD_OF_DIFFERENCES = 1.4826 / math.sqrt(2)
"""From the median absolute difference of neighbours to a standard deviation, if it is normal."""


def change_points(
    values: Sequence[float], *, floor: float, persistence: int = 1
) -> tuple[int, ...]:
    """Return the indices at which a new level begins.

    Args:
        values: finite values in the order in which they were measured.
        floor: a scatter that means nothing, in the values' unit and above 0.
        persistence: how many values a level lasts at least; 2 ignores a single outlier.

    """
    if len(values) < max(2 * persistence, 4):
        return ()
    # Late: a second, and only a history needs it.
    from ruptures import KernelCPD  # noqa: PLC0415

    steps = [abs(after - before) for before, after in pairwise(values)]
    scatter = max(floor, _MAD_OF_DIFFERENCES * median(steps))
    signal = (np.asarray(values) - median(values)).reshape(-1, 1) / scatter
    search = KernelCPD(kernel="linear", min_size=persistence).fit(signal)
    candidates = search.predict(pen=PENALTY * math.log(len(values)))[:-1]
    return _confirmed(values, [int(place) for place in candidates], floor)


def _confirmed(values: Sequence[float], places: list[int], floor: float) -> tuple[int, ...]:
    """Drop the weakest change until all that are left are beyond chance and the floor."""
    while places:
        segments = [values[a:b] for a, b in zip([0, *places], [*places, None], strict=True)]
        chances = [_chance(before, after, segments, floor) for before, after in pairwise(segments)]
        weakest = max(range(len(places)), key=chances.__getitem__)
        if chances[weakest] * (len(values) - 1) <= LEVEL:
            break
        del places[weakest]
    return tuple(places)


def _chance(
    before: Sequence[float],
    after: Sequence[float],
    segments: Sequence[Sequence[float]],
    floor: float,
) -> float:
    """Return the probability of a difference as large, if both had one level."""
    step = abs(fmean(after) - fmean(before))
    if step < FLOOR_WIDTHS * floor:
        return 1.0
    means = [fmean(segment) for segment in segments]
    squares = math.fsum(
        (value - mean) ** 2
        for segment, mean in zip(segments, means, strict=True)
        for value in segment
    )
    freedom = sum(map(len, segments)) - len(segments)
    if freedom == 0:
        return 1.0
    if squares == 0:
        return 0.0
    width = math.sqrt(squares / freedom * (1 / len(before) + 1 / len(after)))
    return float(2 * t.sf(step / width, freedom))
