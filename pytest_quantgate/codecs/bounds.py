"""A-priori bounds on the error of one quantized weight.

One function a format: ``rows`` float32 (n, k) to the largest error (n, k), float64, that the
format's quantizer may leave on each element **without an importance matrix**, computed from the
block's own values. ``inf`` means that nothing is claimed there: outside the stated domain. The
proofs, and what each factor means, are in ``docs/explanation/codecs.md`` under the format's name.

``u = 2^-24`` is float32's unit roundoff and ``h(s)`` the half unit in the last place of the half
precision number nearest s (:func:`~pytest_quantgate.codecs.rounding.half_ulp16`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.codecs import bounds_codebook, bounds_k
from pytest_quantgate.codecs.rounding import FLOAT16_MAX, FLOAT32_ROUNDING, blocks, half_ulp16

if TYPE_CHECKING:
    from pytest_quantgate.codecs.codec import Float32Array, Float64Array

BoundFunction = Callable[["Float32Array"], "Float64Array"]

MXFP4_MIN = 2.0**-125
"""Below it MXFP4's exponent byte would be negative."""

MXFP4_MAX = 2.0**127
"""Above it float32's log2 may round up to 128."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A format's bound, its domain and how tight it is.

    ``max_magnitude`` is the largest |x| of the domain (above it a stored scale may overflow).
    ``factor``: a constructed block attains an error of at least bound/factor on one element.
    """

    name: str
    function: BoundFunction
    max_magnitude: float
    factor: float

    def __call__(self, rows: Float32Array) -> Float64Array:
        """Return the bound on each element's error, same shape as ``rows``; inf: no claim."""
        limit = self.function(rows).reshape(rows.shape)
        magnitude = np.abs(rows)
        outside = ~(magnitude.max(axis=1, keepdims=True) <= self.max_magnitude)
        return np.where(outside, np.inf, limit)


def mxfp4(rows: Float32Array) -> Float64Array:
    """MXFP4. D/4, D/2, D for |x| up to 2 D, 4 D, 6 D; |x| − 6 D above; D = 2^(⌊log2 amax⌋ − 2).

    Where amax is so little below a power of two that float32's log2 rounds to it, the engine may
    take twice the scale: the larger of both bounds holds (docs: "MXFP4", "The scale").
    """
    x = np.abs(blocks(rows, 32))
    amax = x.max(axis=1, keepdims=True)
    _, exponent = np.frexp(amax)  # amax = m 2^exponent, 1/2 <= m < 1
    scale = np.ldexp(1.0, exponent - 3)
    limit = _e2m1(x, scale)
    near = amax >= np.ldexp(1.0, exponent) * (1 - 2.0**-16)
    limit = np.where(near, np.maximum(limit, _e2m1(x, 2 * scale)), limit)
    limit = np.where((amax < MXFP4_MIN) | (amax > MXFP4_MAX), np.inf, limit)
    return np.asarray(np.where(amax == 0, 0.0, limit))


def _e2m1(x: Float64Array, d: Float64Array) -> Float64Array:
    """Return half the gap of the levels (0, ½, 1, 1½, 2, 3, 4, 6) d around |x|, or |x| − 6 d."""
    inside = np.where(x <= 2 * d, d / 4, np.where(x <= 4 * d, d / 2, d))
    return np.where(x <= 6 * d, inside, x - 6 * d)


UE4M3 = np.append(np.arange(8) * 2.0**-9, np.ldexp(np.arange(8, 16), np.arange(-9, 4)[:, None]))
"""NVFP4's scales 0 … 120: three bits of mantissa; below 2^-6 in steps of 2^-9."""

NVFP4_MAX = 6 * 116.0
"""Up to here a sub-block's scale is rounded to a neighbour of :data:`UE4M3`."""


def nvfp4(rows: Float32Array) -> Float64Array:
    """NVFP4. As MXFP4 by sub-blocks of 16 with D = amax/6 rounded to three bits of mantissa.

    Just below 2^-6 the engine may round D down where 2^-6 is nearer (docs: "NVFP4").
    """
    x = np.abs(blocks(rows, 16))
    amax = x.max(axis=1, keepdims=True)
    exact = amax / 6
    above = np.searchsorted(UE4M3, exact, side="right").clip(1, UE4M3.size - 1)
    lower, upper = UE4M3[above - 1], UE4M3[above]
    to_lower, to_upper = exact - lower, upper - exact
    slack = 4 * FLOAT32_ROUNDING * exact
    limit = np.zeros(x.shape)
    for scale, is_possible in (
        (lower, (to_lower <= to_upper + slack) | (upper == 2.0**-6)),
        (upper, to_upper <= to_lower + slack),
    ):
        limit = np.where(is_possible, np.maximum(limit, _e2m1(x, scale)), limit)
    return (limit + 8 * FLOAT32_ROUNDING * x).reshape(-1, 64)


def _ternary(rows: Float32Array, elements: int) -> Float64Array:
    """TQ1_0, TQ2_0 and Q2_0: codes −1, 0, 1 of d = amax; 2 is never the nearest."""
    x = np.abs(blocks(rows, elements))
    d = x.max(axis=1, keepdims=True)
    stored = np.where(x >= d / 2 * (1 - 8 * FLOAT32_ROUNDING), half_ulp16(d), 0.0)
    return np.asarray(np.minimum(x, d - x) + stored + 8 * FLOAT32_ROUNDING * d)


def tq(rows: Float32Array) -> Float64Array:
    """TQ1_0 and TQ2_0. min(|x|, d − |x|) + 8 u d, and h(d) for |x| from d/2 up; d = amax of 256."""
    return _ternary(rows, 256)


def q2_0(rows: Float32Array) -> Float64Array:
    """Q2_0. As TQ1_0 by blocks of 64."""
    return _ternary(rows, 64)


def q1_0(rows: Float32Array) -> Float64Array:
    """Q1_0. ||x| − d| + h(d) + 136 u d, d the mean magnitude of 128."""
    x = np.abs(blocks(rows, 128))
    d = x.mean(axis=1, keepdims=True)
    return np.asarray(np.abs(x - d) + half_ulp16(d) + 136 * FLOAT32_ROUNDING * d)


def _symmetric(rows: Float32Array, levels: int) -> Float64Array:
    """Q4_0 (levels 8) and Q5_0 (16): d = max/−levels, codes −levels … levels − 1."""
    x = blocks(rows, 32)
    index = np.abs(x).argmax(axis=1)[:, None]
    d = np.take_along_axis(x, index, axis=1) / -levels
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(d == 0, 0.0, x / d)
    step = np.abs(d)
    grid = step * np.maximum(0.5, t - (levels - 1))
    code = np.minimum(levels, np.abs(t) + 0.5)
    slack = step * levels * 8 * FLOAT32_ROUNDING
    return np.asarray(grid + code * half_ulp16(d) + slack)


def q4_0(rows: Float32Array) -> Float64Array:
    """Q4_0. |d| max(½, x/d − 7) + min(8, |x/d| + ½) h(d) + 64 u |d|, d = −max/8."""
    return _symmetric(rows, 8)


def q5_0(rows: Float32Array) -> Float64Array:
    """Q5_0. |d| max(½, x/d − 15) + min(16, |x/d| + ½) h(d) + 128 u |d|, d = −max/16."""
    return _symmetric(rows, 16)


def _affine(rows: Float32Array, top: int) -> Float64Array:
    """Q4_1 (top 15) and Q5_1 (31): d = range/top, codes 0 … top, offset min."""
    x = blocks(rows, 32)
    low = x.min(axis=1, keepdims=True)
    high = x.max(axis=1, keepdims=True)
    d = (high - low) / top
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(d == 0, 0.0, (x - low) / d)
    code = np.minimum(top, t + 0.5)
    slack = 8 * FLOAT32_ROUNDING * (np.abs(low) + np.abs(high))
    return np.asarray(d / 2 + code * half_ulp16(d) + half_ulp16(low) + slack)


def q4_1(rows: Float32Array) -> Float64Array:
    """Q4_1. d/2 + min(15, t + ½) h(d) + h(min) + 8 u (|min| + |max|).

    d = range/15, t = (x − min)/d.
    """
    return _affine(rows, 15)


def q5_1(rows: Float32Array) -> Float64Array:
    """Q5_1. As Q4_1 with 31 in place of 15."""
    return _affine(rows, 31)


def q8_0(rows: Float32Array) -> Float64Array:
    """Q8_0. d/2 + min(127, |x|/d + ½) h(d) + 127·4 u d, d = amax/127."""
    x = np.abs(blocks(rows, 32))
    d = x.max(axis=1, keepdims=True) / 127
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(d == 0, 0.0, x / d)
    slack = 127 * 4 * FLOAT32_ROUNDING * d
    return np.asarray(d / 2 + np.minimum(127, t + 0.5) * half_ulp16(d) + slack)


BOUNDS: dict[str, Bound] = {
    bound.name: bound
    for bound in (
        Bound(name="MXFP4", function=mxfp4, max_magnitude=MXFP4_MAX, factor=1.0),
        Bound(name="Q8_0", function=q8_0, max_magnitude=127 * FLOAT16_MAX, factor=1.01),
        Bound(name="Q4_0", function=q4_0, max_magnitude=8 * FLOAT16_MAX, factor=1.01),
        Bound(name="Q5_0", function=q5_0, max_magnitude=16 * FLOAT16_MAX, factor=1.01),
        Bound(name="Q4_1", function=q4_1, max_magnitude=FLOAT16_MAX, factor=1.01),
        Bound(name="Q5_1", function=q5_1, max_magnitude=FLOAT16_MAX, factor=1.01),
        Bound(name="Q2_K", function=bounds_k.q2_k, max_magnitude=2.0**12, factor=1.02),
        Bound(name="Q3_K", function=bounds_k.q3_k, max_magnitude=2.0**12, factor=1.01),
        Bound(name="Q4_K", function=bounds_k.q4_k, max_magnitude=2.0**12, factor=1.02),
        Bound(name="Q5_K", function=bounds_k.q5_k, max_magnitude=2.0**12, factor=1.02),
        Bound(name="Q6_K", function=bounds_k.q6_k, max_magnitude=2.0**12, factor=1.03),
        Bound(name="IQ4_NL", function=bounds_codebook.iq4_nl, max_magnitude=2.0**12, factor=1.14),
        Bound(name="IQ4_XS", function=bounds_codebook.iq4_xs, max_magnitude=2.0**12, factor=1.16),
        Bound(name="NVFP4", function=nvfp4, max_magnitude=NVFP4_MAX, factor=1.01),
        Bound(name="TQ1_0", function=tq, max_magnitude=FLOAT16_MAX, factor=1.01),
        Bound(name="TQ2_0", function=tq, max_magnitude=FLOAT16_MAX, factor=1.01),
        Bound(name="Q1_0", function=q1_0, max_magnitude=FLOAT16_MAX, factor=1.01),
        Bound(name="Q2_0", function=q2_0, max_magnitude=FLOAT16_MAX, factor=1.01),
    )
}
"""The proved bounds, by type name."""
