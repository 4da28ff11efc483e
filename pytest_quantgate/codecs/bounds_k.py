"""A-priori error bounds of the K-quants; proofs in ``docs/explanation/codecs.md``, "The K-quants".

Every function takes rows float32 (n, k) and returns float64 (n · k / 256, 256): the largest
error of each element when quantized without an importance matrix; ``inf`` where nothing is claimed.
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

    top: int  # the largest code
    super_top: int  # the largest code of a sub-block's scale and minimum


_Q4_K = _Affine(top=15, super_top=63)
_Q5_K = _Affine(top=31, super_top=63)
_Q2_K = _Affine(top=3, super_top=15)


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """Limits on a sub-block's fit, before the super-block rounds it.

    Shapes (b, s, 1); ``error`` (b, s, e).

    ``error`` bounds |scale · code − minimum − x| of each element under the codes of the search;
    ``certain`` says that the fitted scale is positive.
    """

    error: Float64Array
    scale: Float64Array
    minimum: Float64Array
    certain: npt.NDArray[np.bool_]


def _first_candidate_error(x: Float64Array, top: int) -> Float64Array:
    """Return the error of the search's first candidate: min-max rounding, shape of ``x``."""
    low = np.minimum(x.min(axis=2, keepdims=True), 0.0)
    step = (x.max(axis=2, keepdims=True) - low) / top
    safe = np.where(step == 0, 1.0, step)
    code = np.clip(np.rint((x - low) / safe), 0, top)
    return np.asarray(np.where(step == 0, 0.0, np.abs(code * step + low - x)))


def _largest_scale(x: Float64Array, error: Float64Array) -> Float64Array:
    """Return an upper limit of the fitted scale, (b, s, 1); inf if no two elements are apart.

    Elements further apart than the sum of their errors have different codes. A chain of n + 1 such
    elements spans at least n codes: scale ≤ (x_n − x_0 + e_0 + e_n)/n (docs: "The fitted scale").
    The chain is built greedily from either end; every prefix of it counts.
    """
    limit = np.full(x.shape[:2], np.inf)
    for side in (x, -x):
        order = np.argsort(side, axis=2)
        values, errors = (np.take_along_axis(part, order, axis=2) for part in (side, error))
        first, first_error = values[..., 0], errors[..., 0]
        last, last_error = first, first_error
        links = np.zeros(first.shape)
        for index in range(1, x.shape[2]):
            value, its_error = values[..., index], errors[..., index]
            started = np.isfinite(first_error)
            apart = started & (value - last > last_error + its_error)
            links = np.where(apart, links + 1, links)
            span = value - first + first_error + its_error
            limit = np.where(apart, np.minimum(limit, span / np.maximum(links, 1)), limit)
            # an element without weight can't begin a chain
            step = apart | ~started
            last, last_error = np.where(step, value, last), np.where(step, its_error, last_error)
            first, first_error = (
                np.where(started, first, value),
                np.where(started, first_error, its_error),
            )
    return limit[..., None]


def _fit(x: Float64Array, error: Float64Array, unpinned: Float64Array, kind: _Affine) -> _Fit:
    """Limit scale and minimum from the errors; ``unpinned``: the scale's limit without a chain."""
    chained = _largest_scale(x, error)
    scale = np.where(np.isfinite(chained), chained, unpinned) * (1 + 2.0**-12)
    x_high = x.max(axis=2, keepdims=True)
    at_high = np.take_along_axis(error, x.argmax(axis=2)[:, :, None], axis=2)
    minimum = np.maximum(kind.top * scale - x_high + at_high, 0.0)
    # max = min: nothing is searched, the fit is exact
    low = np.minimum(x.min(axis=2, keepdims=True), 0.0)
    flat = x_high == low
    return _Fit(
        error=np.where(flat, 0.0, error),
        scale=np.where(flat, 0.0, scale),
        minimum=np.where(flat, -low, minimum),
        certain=flat | np.isfinite(chained) | ((low == 0) & (x_high > at_high)),
    )


def _fit_squared(x: Float64Array, kind: _Affine) -> _Fit:
    """Q4_K and Q5_K: weights rms + |x|, squared error (docs: "Sub-block fit")."""
    u = FLOAT32_ROUNDING
    weight = np.sqrt((x * x).mean(axis=2, keepdims=True)) + np.abs(x)
    total = weight.sum(axis=2, keepdims=True)
    first = _first_candidate_error(x, kind.top)
    square = (weight * first * first).sum(axis=2, keepdims=True)
    safe_weight = np.where(weight == 0, 1.0, weight)
    reach = np.sqrt(total / safe_weight)  # how far one element's error may exceed the mean error
    magnitude = np.abs(x).max(axis=2, keepdims=True)
    exact = np.sqrt(square / safe_weight) * SUM_SLACK + 32 * u * magnitude * reach
    unpinned = CANCELLATION * magnitude / (kind.top - 1)
    fit = _fit(x, exact, unpinned, kind)
    # float32 evaluates the error itself with a rounding that grows with scale and minimum
    rounding = 8 * u * (kind.top * fit.scale + fit.minimum) * reach
    return _fit(x, np.where(fit.scale == 0, exact, exact + rounding), unpinned, kind)


def _affine_bound(x: Float64Array, fit: _Fit, kind: _Affine) -> Float64Array:
    """Add what rounding the super-block's scales does (docs: "Super-block rounding")."""
    u = FLOAT32_ROUNDING

    def off(largest: Float64Array) -> Float64Array:
        top = kind.super_top
        return (largest / (2 * top) + top * half_ulp16(largest / top)) * (1 + 2.0**-20)

    off_scale = off(fit.scale.max(axis=1, keepdims=True))
    off_minimum = off(fit.minimum.max(axis=1, keepdims=True))
    # a scale that may be fitted below zero wraps to any code: level 0 remains
    kept = fit.error + off_minimum + kind.top * np.where(fit.certain, off_scale, fit.scale)
    at_low, at_high = (
        np.take_along_axis(fit.error, at[:, :, None], axis=2) for at in (x.argmin(2), x.argmax(2))
    )
    highest = x.max(axis=2, keepdims=True) - at_high - kind.top * off_scale - off_minimum
    lowest = x.min(axis=2, keepdims=True) + at_low + kind.top * off_scale + off_minimum
    nearest = np.maximum((fit.scale + off_scale) / 2, np.maximum(x - highest, lowest - x))
    limit = np.where(fit.certain, np.minimum(kept, nearest), kept)
    slack = 8 * u * (np.abs(x) + kind.top * (fit.scale + off_scale) + fit.minimum + off_minimum)
    return np.asarray(limit * (1 + 2.0**-18) + slack)


def q4_k(rows: Float32Array) -> Float64Array:
    """Q4_K: eight sub-blocks of 32, six-bit scales and minima (docs: "Q4_K and Q5_K")."""
    x = blocks(rows, SUPER_BLOCK).reshape(-1, 8, 32)
    return _affine_bound(x, _fit_squared(x, _Q4_K), _Q4_K).reshape(-1, SUPER_BLOCK)


def q5_k(rows: Float32Array) -> Float64Array:
    """Q5_K: as Q4_K with codes 0 … 31 (docs: "Q4_K and Q5_K")."""
    x = blocks(rows, SUPER_BLOCK).reshape(-1, 8, 32)
    return _affine_bound(x, _fit_squared(x, _Q5_K), _Q5_K).reshape(-1, SUPER_BLOCK)


def q2_k(rows: Float32Array) -> Float64Array:
    """Q2_K: sixteen sub-blocks of 16, four-bit scales and minima (docs: "Q2_K").

    The search weighs absolute errors by |x|. No claim (inf) for a super-block in which some
    sub-block has no two elements further apart than the sum of their errors.
    """
    u = FLOAT32_ROUNDING
    x = blocks(rows, SUPER_BLOCK).reshape(-1, 16, 16)
    weight = np.abs(x)
    total = weight.sum(axis=2, keepdims=True)
    first = (weight * _first_candidate_error(x, 3)).sum(axis=2, keepdims=True)
    magnitude = weight.max(axis=2, keepdims=True)
    nowhere = np.full(magnitude.shape, np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):  # inf − inf, 0 · inf, 0/0: no claim
        exact = np.where(
            weight > 0, (first * SUM_SLACK + 64 * u * magnitude * total) / weight, np.inf
        )
        fit = _fit(x, exact, nowhere, _Q2_K)
        rounding = 8 * u * (3 * fit.scale + fit.minimum) * total / weight
        fit = _fit(x, np.where(weight > 0, exact + rounding, np.inf), nowhere, _Q2_K)
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
    bound = np.asarray(limit * (1 + 2.0**-18) + 16 * FLOAT32_ROUNDING * x)
    return bound.reshape(-1, SUPER_BLOCK)


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
    squared = (weight * (x - scale * code) ** 2).sum(axis=2, keepdims=True)
    # the errors are compared in float32 as differences of nearly equal numbers: 200 u of Σ x⁴
    residual = np.sqrt(squared + 2.0**-16 * (weight * weight).sum(axis=2, keepdims=True))
    magnitude = np.abs(x)
    largest = magnitude.max(axis=(1, 2), keepdims=True)
    off = largest / 32 + 32 * half_ulp16(largest / 32)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.where(magnitude > 0, residual / magnitude, np.inf) + 4 * off
    limit = np.minimum(magnitude, kept)
    bound = np.asarray(limit * (1 + 2.0**-18) + 16 * FLOAT32_ROUNDING * magnitude)
    return bound.reshape(-1, SUPER_BLOCK)
