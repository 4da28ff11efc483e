"""A-priori error bounds of IQ4_NL and IQ4_XS.

The proofs are in ``docs/explanation/codecs.md``, "IQ4_NL and IQ4_XS".

Rows float32 (n, k) to float64 (blocks, elements), without an importance matrix.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.codecs.rounding import FLOAT32_ROUNDING, blocks, half_ulp16
from pytest_quantgate.codecs.scale_search import scale_ratio_limits

if TYPE_CHECKING:
    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    Float64Array = npt.NDArray[np.float64]

LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float64
)
"""``kvalues_iq4nl`` of ggml-common.h."""

TINY = 1e-15
"""GROUP_MAX_EPS: a sub-block below it is stored as zeros."""


@cache
def scale_limits() -> tuple[float, float]:
    """Limits of |d|/amax: trials at ι amax in 120 … 134 towards −127, and at 127 towards 113."""
    below = scale_ratio_limits(LEVELS, elements=32, reach=(120.0, 134.0), towards=-1)
    above = scale_ratio_limits(LEVELS, elements=32, reach=(127.0, 127.0), towards=1)
    return min(below[0], above[0]), max(below[1], above[1])


def _half_gap(t: Float64Array) -> Float64Array:
    """Return the largest half gap between neighbouring levels out to |t|, either side."""
    result = np.full(t.shape, 6.5)
    magnitude = np.abs(t)
    for lower, upper in pairwise(LEVELS):
        start = min(abs(lower), abs(upper)) if lower * upper > 0 else 0.0
        result = np.where(magnitude >= start, np.maximum(result, (upper - lower) / 2), result)
    return result


def _codebook(x: Float64Array, low: Float64Array, high: Float64Array) -> Float64Array:
    """Return the error of rounding |x| to a scaled level, the scale's magnitude in [low, high].

    max(d⁺ g(|x|/d⁻), |x| − 113 d⁻), g the half gap: either side of the codebook may be the one
    used.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(x > 0, x / low, 0.0)
    inside = high * _half_gap(np.minimum(t, 200.0))
    return np.maximum(inside, x - 113 * low)


def iq4_nl(rows: Float32Array) -> Float64Array:
    """IQ4_NL: one half-precision scale for 32 codes (docs: "IQ4_NL and IQ4_XS")."""
    x = np.abs(blocks(rows, 32))
    amax = x.max(axis=1, keepdims=True)
    least, most = scale_limits()
    low, high = least * amax, most * amax
    limit = _codebook(x, low, high)
    stored = _stored(x + limit, low, high, 127.0)
    return _finish(np.where(amax < TINY, x, limit + stored), x)


def iq4_xs(rows: Float32Array) -> Float64Array:
    """IQ4_XS: eight sub-blocks of 32, six-bit scales (docs: "IQ4_NL and IQ4_XS")."""
    x = np.abs(blocks(rows, 256)).reshape(-1, 8, 32)
    amax = x.max(axis=2, keepdims=True)
    least, most = scale_limits()
    largest = most * amax.max(axis=1, keepdims=True)
    smallest = least * amax.max(axis=1, keepdims=True)
    high = most * amax + largest / 64
    low = np.maximum(least * amax - largest / 32, 0.0)
    limit = _codebook(x, low, high)
    limit = np.where(low > 0, limit, np.maximum(x, 12 * high))
    stored = _stored(x + limit, smallest / 32, largest / 32, 127.0 * 32)
    return _finish(limit + stored, x).reshape(-1, 256)


def _stored(
    value: Float64Array, low: Float64Array, high: Float64Array, codes: float
) -> Float64Array:
    """Return what rounding the scale, in [low, high], to half precision does to ``value``.

    The decoded value is codes · scale, so its relative error is the scale's; never more than
    ``codes`` half units in the last place.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(low > 0, half_ulp16(low) / np.where(low > 0, low, 1.0), np.inf)
        relative = np.maximum(relative, 2.0**-11)
        scaled = np.where(np.isfinite(relative), value * relative, np.inf)
    return np.minimum(scaled, codes * half_ulp16(high))


def _finish(limit: Float64Array, x: Float64Array) -> Float64Array:
    return limit * (1 + 2.0**-18) + 16 * FLOAT32_ROUNDING * x
