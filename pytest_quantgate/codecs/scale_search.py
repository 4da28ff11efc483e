"""How far a least-squares scale can lie from its trial scale, whatever the values.

The quantizers of Q6_K, IQ4_NL and IQ4_XS try inverse scales ι, round t = ι x to the nearest level q
and keep the least-squares scale s = Σ x² x q / Σ x² q² of one trial. With x = t/ι,

    s ι = Σ t³ q / Σ t² q²,

where one element (the largest) has |t| = T known, and the others |t| ≤ T. A ratio of sums, each
term depending on one t, exceeds λ for some values exactly if Σ (t³ q − λ t² q²) > 0 for some,
and the largest sum is reached with every other element at the same, worst t. So the supremum is
the root of T³Q − λ T²Q² + (n − 1) max_t (t³ q − λ t² q²), and likewise the infimum (docs: "A
scale from least squares").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Float64Array = npt.NDArray[np.float64]

_GRID_STEP = 1.0 / 256
_MARGIN = 2.0**-9
"""Relative: covers the grid of t and T and float32's rounding of the sums."""


def _nearest(t: Float64Array, levels: Float64Array) -> Float64Array:
    return np.asarray(levels[np.abs(t[:, None] - levels[None, :]).argmin(axis=1)])


def scale_ratio_limits(
    levels: npt.NDArray[np.float64], *, elements: int, reach: tuple[float, float], towards: int
) -> tuple[float, float]:
    """Return the least and largest possible |s|/amax.

    ``levels``: the quantizer's grid. ``elements``: of a sub-block. ``reach``: T of the trials, i.e.
    ι amax. ``towards``: the side of the grid (−1 or +1) that the largest element is scaled to.
    """
    least, most = np.inf, 0.0
    for reached in np.linspace(reach[0], reach[1], 24 if reach[1] > reach[0] else 1):
        t = np.arange(-reached, reached + _GRID_STEP, _GRID_STEP).clip(-reached, reached)
        q = _nearest(t, levels)
        extreme_q = float(_nearest(np.array([towards * reached]), levels)[0])
        numerator, denominator = t**3 * q, t**2 * q**2
        own = (towards * reached) ** 3 * extreme_q, reached**2 * extreme_q**2

        def excess(
            ratio: float,
            sign: float,
            terms: tuple[Float64Array, Float64Array] = (numerator, denominator),
            largest: tuple[float, float] = own,
        ) -> float:
            others = (sign * (terms[0] - ratio * terms[1])).max()
            return float(
                sign * (largest[0] - ratio * largest[1]) + (elements - 1) * max(0.0, others)
            )

        most = max(most, _root(lambda r: excess(r, 1.0)) / reached)
        least = min(least, _root(lambda r: -excess(r, -1.0)) / reached)
    return least * (1 - _MARGIN), most * (1 + _MARGIN)


def _root(decreasing: Callable[[float], float]) -> float:
    """Return where a decreasing function crosses zero, in [0, 4]."""
    low, high = 0.0, 4.0
    for _ in range(60):
        middle = (low + high) / 2
        if decreasing(middle) > 0:
            low = middle
        else:
            high = middle
    return high
