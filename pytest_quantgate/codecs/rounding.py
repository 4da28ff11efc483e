"""Rounding of scales, shared by the bounds: half units in the last place, and float32 slack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Float64Array = npt.NDArray[np.float64]

FLOAT16_MAX = 65504.0
"""The largest finite half-precision number; a scale above it is stored as infinity."""

FLOAT32_ROUNDING = 2.0**-24
"""u, the unit roundoff of float32."""


def half_ulp16(value: Float64Array) -> Float64Array:
    """Return the largest distance of ``|value|`` from the half-precision number it is rounded to.

    2^(max(⌊log2 v⌋, −14) − 11): constant below 2^-14, where half precision is subnormal.
    """
    _, exponent = np.frexp(np.abs(value))
    binade = np.where(value == 0, -14, np.maximum(exponent - 1, -14))
    return np.asarray(np.ldexp(1.0, binade - 11), dtype=np.float64)


def blocks(rows: npt.NDArray[np.float32], elements: int) -> Float64Array:
    """Return ``rows`` (n, k) as float64 blocks (n · k / elements, elements)."""
    return np.asarray(rows, dtype=np.float64).reshape(-1, elements)
