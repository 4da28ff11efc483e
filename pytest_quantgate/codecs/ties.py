"""Values exactly between two levels, and where each format's rule sends them.

Only formats whose scale such a block fixes exactly: a power of two, so that no rounding of the
scale hides the rule. MXFP4 takes the first nearest level, the one nearer zero; Q8_0 rounds halves
away from zero (``roundf``); Q4_0, Q5_0, Q4_1 and Q5_1 round halves up in
units of their (signed) scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    Float64Array = npt.NDArray[np.float64]

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float64)
"""MXFP4's magnitudes."""


def _place(
    values: npt.NDArray[np.floating], extremes: list[float], rng: np.random.Generator
) -> Float64Array:
    placed = values.astype(np.float64)
    placed[rng.permutation(values.size)[: len(extremes)]] = extremes
    return placed


def _mxfp4(rng: np.random.Generator) -> Float64Array:
    midpoints = (E2M1[:-1] + E2M1[1:]) / 2
    magnitudes = _place(rng.choice(midpoints, 32), [6.0], rng)
    return np.asarray(magnitudes * rng.choice([-1.0, 1.0], 32))


def _mxfp4_target(x: Float64Array) -> Float64Array:
    scale = 2.0 ** (np.floor(np.log2(np.abs(x).max())) - 2)
    level = E2M1[np.searchsorted(E2M1, np.abs(x) / scale, side="right") - 1]
    return np.asarray(np.sign(x) * level * scale)


def _q8_0(rng: np.random.Generator) -> Float64Array:
    return _place(rng.integers(-127, 127, 32) + 0.5, [127.0], rng)


def _q8_0_target(x: Float64Array) -> Float64Array:
    d = np.abs(x).max() / 127
    return np.asarray(np.sign(x) * np.floor(np.abs(x) / d + 0.5) * d)


def _symmetric(levels: int) -> Callable[[np.random.Generator], Float64Array]:
    def build(rng: np.random.Generator) -> Float64Array:
        x = _place(rng.integers(-levels, levels - 1, 32) + 0.5, [float(-levels)], rng)
        return np.asarray(x * rng.choice([-1.0, 1.0]))

    return build


def _symmetric_target(levels: int) -> Callable[[Float64Array], Float64Array]:
    def target(x: Float64Array) -> Float64Array:
        d = x[np.abs(x).argmax()] / -levels
        return np.asarray(d * np.minimum(levels - 1, np.floor(x / d + 0.5)))

    return target


def _affine(top: int) -> Callable[[np.random.Generator], Float64Array]:
    def build(rng: np.random.Generator) -> Float64Array:
        x = _place(rng.integers(0, top, 32) + 0.5, [0.0, float(top)], rng)
        return np.asarray(x + rng.integers(-64, 64))

    return build


def _affine_target(top: int) -> Callable[[Float64Array], Float64Array]:
    def target(x: Float64Array) -> Float64Array:
        low = x.min()
        d = (x.max() - low) / top
        return np.asarray(low + d * np.minimum(top, np.floor((x - low) / d + 0.5)))

    return target


BLOCKS: dict[str, Callable[[np.random.Generator], Float64Array]] = {
    "MXFP4": _mxfp4,
    "Q8_0": _q8_0,
    "Q4_0": _symmetric(8),
    "Q5_0": _symmetric(16),
    "Q4_1": _affine(15),
    "Q5_1": _affine(31),
}
"""Builds one block of ties, at magnitude one, by type."""

TARGETS: dict[str, Callable[[Float64Array], Float64Array]] = {
    "MXFP4": _mxfp4_target,
    "Q8_0": _q8_0_target,
    "Q4_0": _symmetric_target(8),
    "Q5_0": _symmetric_target(16),
    "Q4_1": _affine_target(15),
    "Q5_1": _affine_target(31),
}
"""What one block of ties must decode to."""


def tie_targets(name: str, rows: Float32Array) -> Float32Array:
    """Return what a row (1, 32) of ties must decode to, float32 of the same shape."""
    return TARGETS[name](rows[0].astype(np.float64)).astype(np.float32)[None, :]
