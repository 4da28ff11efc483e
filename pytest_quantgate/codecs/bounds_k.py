"""A-priori error bounds of the K-quants; proofs in ``docs/codecs.md``, "The K-quants".

Every function takes rows float32 (n, k) and returns float64 (n · k / 256, 256): the largest error of
each element when quantized without an importance matrix; ``inf`` where nothing is claimed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.codecs.rounding import FLOAT32_ROUNDING, blocks, half_ulp16
from pytest_quantgate.codecs.scale_search import scale_ratio_limits

if TYPE_CHECKING:
    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    Float64Array = npt.NDArray[np.float64]

SUPER_BLOCK = 256
SUM_SLACK = 1 + 2.0**-17
"""Covers the float32 rounding of a weighted sum of at most 32 terms and of its square root."""

CANCELLATION = 131.0
"""(32 + 32 + 33 + 32 + 2) u / u: how far cancelling float32 sums may throw a fitted scale."""


@dataclass(frozen=True, kw_only=True)
class _Affine:
    """What distinguishes Q2_K, Q4_K and Q5_K."""

    elements: int  # of a sub-block
    top: int  # the largest code
    iota_low: float  # the smallest and largest trial inverse scale, in units of 1/range
    iota_high: float
    super_top: int  # the largest code of a sub-block's scale and minimum
    mad: bool  # the search minimizes the weighted absolute instead of the squared error


_Q4_K = _Affine(elements=32, top=15, iota_low=14.0, iota_high=16.0, super_top=63, mad=False)
_Q5_K = _Affine(elements=32, top=31, iota_low=30.5, iota_high=32.0, super_top=63, mad=False)
_Q2_K = _Affine(elements=16, top=3, iota_low=2.5, iota_high=4.0, super_top=15, mad=True)


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """Limits on a sub-block's fit, before the super-block rounds it. Shapes (b, s, 1), errors (b, s, e).

    ``error`` bounds |scale · code − minimum − x| of each element under the codes of the search;
    ``certain`` says that the fitted scale is positive.
    """

    error: Float64Array
    scale: Float64Array
    minimum: Float64Array
    certain: npt.NDArray[np.bool_]


def _first_candidate_error(x: Float64Array, low: Float64Array, step: Float64Array, top: int) -> Float64Array:
    """Return the error of the search's first candidate: min-max rounding, shape of ``x``."""
    safe = np.where(step == 0, 1.0, step)
    code = np.clip(np.rint((x - low) / safe), 0, top)
    return np.asarray(np.where(step == 0, 0.0, np.abs(code * step + low - x)))


def _least_spread(x_low: Float64Array, low: Float64Array, span: Float64Array, kind: _Affine) -> Float64Array:
    """Return a lower limit of L(largest x) − L(smallest x) over every trial inverse scale.

    The trial code of x is min(top, round(ι (x − low)/span)), ι in [iota_low, iota_high]. The
    difference is at least min(top, ι − ½) − (ι p + ½), p = (x_low − low)/span, which is concave in ι:
    its least value lies at an end of the interval.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(span > 0, (x_low - low) / np.where(span > 0, span, 1.0), 0.0)
    spread = np.full_like(p, np.inf)
    for iota in (kind.iota_low, kind.iota_high):
        spread = np.minimum(spread, np.minimum(kind.top, iota - 0.5) - (iota * p + 0.5))
    rounded = np.ceil(spread - 1e-5)
    # p = 0: the smallest element's code is 0 exactly, the largest's at least round(iota_low)
    return np.where(p == 0, np.floor(kind.iota_low), np.maximum(rounded, 0.0))


def _fit_squared(x: Float64Array, kind: _Affine) -> _Fit:
    """Q4_K and Q5_K: weights rms + |x|, squared error (docs: "Sub-block fit")."""
    u = FLOAT32_ROUNDING
    x_low = x.min(axis=2, keepdims=True)
    x_high = x.max(axis=2, keepdims=True)
    low = np.minimum(x_low, 0.0)
    span = x_high - low
    weight = np.sqrt((x * x).mean(axis=2, keepdims=True)) + np.abs(x)
    total = weight.sum(axis=2, keepdims=True)
    first = _first_candidate_error(x, low, span / kind.top, kind.top)
    square = (weight * first * first).sum(axis=2, keepdims=True)
    safe_weight = np.where(weight == 0, 1.0, weight)
    reach = np.sqrt(total / safe_weight)  # how far one element's error may exceed the mean error
    magnitude = np.maximum(np.abs(x_low), np.abs(x_high))
    error = np.sqrt(square / safe_weight) * SUM_SLACK + 32 * u * magnitude * reach

    def of(extreme: npt.NDArray[np.intp]) -> Float64Array:
        return np.take_along_axis(error, extreme[:, :, None], axis=2)

    at_low, at_high = of(x.argmin(axis=2)), of(x.argmax(axis=2))
    spread = _least_spread(x_low, low, span, kind)
    regular = spread >= 1
    scale = np.where(
        regular,
        (x_high - x_low + at_low + at_high) / np.maximum(spread, 1.0),
        CANCELLATION * np.abs(x_high) / np.floor(kind.iota_low),
    )
    p = np.where(span > 0, (x_low - low) / np.where(span > 0, span, 1.0), 0.0)
    low_code = np.where(p == 0, 0.0, np.minimum(kind.top, np.floor(kind.iota_high * p + 0.5 + 1e-5)))
    minimum = np.where(
        regular, np.maximum(scale * low_code - x_low + at_low, 0.0), kind.top * scale
    )
    # max = min: nothing is searched; the fit is exact
    flat = span == 0
    scale = np.where(flat, 0.0, scale)
    minimum = np.where(flat, -low, minimum)
    error = np.where(flat, 0.0, error + 8 * u * reach * (kind.top * scale + minimum))
    certain = flat | (x_high - x_low > at_low + at_high) | (x_low > 0)
    return _Fit(error=error, scale=scale, minimum=minimum, certain=certain)


def _affine_bound(x: Float64Array, fit: _Fit, kind: _Affine) -> Float64Array:
    """Add what rounding the super-block's scales does (docs: "Super-block rounding")."""
    u = FLOAT32_ROUNDING
    largest_scale = fit.scale.max(axis=1, keepdims=True)
    largest_minimum = fit.minimum.max(axis=1, keepdims=True)

    def off(largest: Float64Array) -> Float64Array:
        top = kind.super_top
        return (largest / (2 * top) + top * half_ulp16(largest / top)) * (1 + 2.0**-20)

    off_scale, off_minimum = off(largest_scale), off(largest_minimum)
    x_low = x.min(axis=2, keepdims=True)
    x_high = x.max(axis=2, keepdims=True)
    low = np.minimum(x_low, 0.0)
    span = np.where(x_high > low, x_high - low, 1.0)
    code = np.minimum(kind.top, np.floor(kind.iota_high * (x - low) / span + 0.5 + 1e-5))
    kept = fit.error + code * off_scale + off_minimum
    # a scale that may be fitted below zero wraps to any code: level 0 remains
    kept = np.where(fit.certain, kept, fit.error + kind.top * fit.scale + off_minimum)
    extremes = [
        np.take_along_axis(fit.error, at[:, :, None], axis=2) for at in (x.argmin(2), x.argmax(2))
    ]
    highest = x_high - extremes[1] - kind.top * off_scale - off_minimum
    lowest = x_low + extremes[0] + off_minimum
    nearest = np.maximum((fit.scale + off_scale) / 2, np.maximum(x - highest, lowest - x))
    limit = np.where(fit.certain, np.minimum(kept, nearest), kept)
    slack = 8 * u * (np.abs(x) + kind.top * (fit.scale + off_scale) + fit.minimum + off_minimum)
    return limit * (1 + 2.0**-18) + slack


def q4_k(rows: Float32Array) -> Float64Array:
    """Q4_K: eight sub-blocks of 32, six-bit scales and minima (docs: "Q4_K and Q5_K")."""
    x = blocks(rows, SUPER_BLOCK).reshape(-1, 8, 32)
    return _affine_bound(x, _fit_squared(x, _Q4_K), _Q4_K).reshape(-1, SUPER_BLOCK)


def q5_k(rows: Float32Array) -> Float64Array:
    """Q5_K: as Q4_K with codes 0 … 31 (docs: "Q4_K and Q5_K")."""
    x = blocks(rows, SUPER_BLOCK).reshape(-1, 8, 32)
    return _affine_bound(x, _fit_squared(x, _Q5_K), _Q5_K).reshape(-1, SUPER_BLOCK)


def _fit_absolute(x: Float64Array) -> _Fit:
    """Q2_K: weights |x|, absolute error; inf where no two elements pin the scale (docs: "Q2_K")."""
    u = FLOAT32_ROUNDING
    kind = _Q2_K
    x_low = x.min(axis=2, keepdims=True)
    x_high = x.max(axis=2, keepdims=True)
    low = np.minimum(x_low, 0.0)
    span = x_high - low
    weight = np.abs(x)
    total = weight.sum(axis=2, keepdims=True)
    first = (weight * _first_candidate_error(x, low, span / 3, 3)).sum(axis=2, keepdims=True)
    magnitude = weight.max(axis=2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = (first * SUM_SLACK + 64 * u * magnitude * total) / weight
    error = np.where(weight == 0, np.inf, error)
    order = np.argsort(x, axis=2)
    s, e = np.take_along_axis(x, order, axis=2), np.take_along_axis(error, order, axis=2)
    t = (s - low) / np.where(span > 0, span, 1.0)
    scale = np.zeros_like(x_low)
    for trial in range(16):
        iota = kind.iota_low + 0.1 * trial
        least = np.minimum(3, np.ceil(iota * t - 0.5 - 1e-5))  # a lower and an upper limit of the code
        most = np.minimum(3, np.floor(iota * t + 0.5 + 1e-5))
        apart = least[:, :, None, :] - most[:, :, :, None]  # code(b) - code(a), [.., a, b]
        gap = s[:, :, None, :] - s[:, :, :, None] + e[:, :, None, :] + e[:, :, :, None]
        pinned = np.where(apart >= 1, gap / np.maximum(apart, 1), np.inf).min(axis=(2, 3))[..., None]
        scale = np.maximum(scale, pinned)
    top_code = np.minimum(3, np.floor(kind.iota_high * t + 0.5 + 1e-5))
    minimum = np.maximum((scale * top_code - s + e).min(axis=2, keepdims=True), 0.0)
    flat = span == 0
    scale = np.where(flat, 0.0, scale)
    minimum = np.where(flat, -low, minimum)
    slack = 8 * u * (3 * scale + minimum) * total
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(flat, 0.0, error + np.where(weight == 0, np.inf, slack / weight))
    e_low = np.take_along_axis(error, x.argmin(2)[:, :, None], 2)
    e_high = np.take_along_axis(error, x.argmax(2)[:, :, None], 2)
    certain = flat | (x_high - x_low > e_low + e_high)
    return _Fit(error=error, scale=scale, minimum=minimum, certain=certain)


def q2_k(rows: Float32Array) -> Float64Array:
    """Q2_K: sixteen sub-blocks of 16, four-bit scales and minima (docs: "Q2_K")."""
    x = blocks(rows, SUPER_BLOCK).reshape(-1, 16, 16)
    fit = _fit_absolute(x)
    with np.errstate(invalid="ignore"):
        limit = _affine_bound(x, fit, _Q2_K)
    return np.where(np.isnan(limit), np.inf, limit).reshape(-1, SUPER_BLOCK)


def q6_k(rows: Float32Array) -> Float64Array:
    """Q6_K: sixteen sub-blocks of 16, eight-bit scales (docs: "Q6_K").

    min(|x|, max(d⁺/2, |x| − 31 d⁻)), [d⁻, d⁺] the limits of the sub-block's rounded scale.
    """
    x = np.abs(blocks(rows, SUPER_BLOCK)).reshape(-1, 16, 16)
    amax = x.max(axis=2, keepdims=True)
    least, most = _q6_k_limits()
    high, low = most * amax, least * amax
    largest = high.max(axis=1, keepdims=True)
    stored = 128 * half_ulp16(largest / 128)
    step_high = high + largest / 256 + stored
    step_low = np.maximum(low - largest / 128 - stored, 0.0)
    limit = np.minimum(x, np.maximum(step_high / 2, x - 31 * step_low))
    return (limit * (1 + 2.0**-18) + 16 * FLOAT32_ROUNDING * x).reshape(-1, SUPER_BLOCK)


@cache
def _q6_k_limits() -> tuple[float, float]:
    """Limits of a sub-block's fitted scale in units of its amax (docs: "Q6_K")."""
    levels = np.arange(-32, 32, dtype=np.float64)
    return scale_ratio_limits(levels, elements=16, reach=(31.1, 32.9), towards=-1)


def q3_k(rows: Float32Array) -> Float64Array:
    """Q3_K: sixteen sub-blocks of 16, six-bit scales (docs: "Q3_K").

    min(|x|, √F₀/|x| + 4 (A/32 + 32 h(A/32))), F₀ the first candidate's weighted squared error and A
    the super-block's largest magnitude.
    """
    x = blocks(rows, SUPER_BLOCK).reshape(-1, 16, 16)
    at = np.abs(x).argmax(axis=2)[:, :, None]
    extreme = np.take_along_axis(x, at, axis=2)
    safe = np.where(extreme == 0, 1.0, extreme)
    code = np.clip(np.rint(-4 * x / safe), -4, 3)
    weight = x * x
    top = (weight * x * code).sum(axis=2, keepdims=True)
    bottom = (weight * code * code).sum(axis=2, keepdims=True)
    scale = np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), 0.0)
    residual = np.sqrt((weight * (x - scale * code) ** 2).sum(axis=2, keepdims=True)) * SUM_SLACK
    magnitude = np.abs(x)
    largest = magnitude.max(axis=(1, 2), keepdims=True)
    off = largest / 32 + 32 * half_ulp16(largest / 32)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.where(magnitude > 0, residual / magnitude, np.inf) + 4 * off
    # the weighted errors are compared in float32 as differences of nearly equal numbers
    kept += 2.0**-10 * np.abs(extreme) * np.abs(extreme) / np.where(magnitude > 0, magnitude, 1.0)
    limit = np.minimum(magnitude, kept)
    return (limit * (1 + 2.0**-18) + 16 * FLOAT32_ROUNDING * magnitude).reshape(-1, SUPER_BLOCK)
