"""Each bound is attained within its stated factor, so that none is merely loose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pytest_quantgate.codecs.bounds import BOUNDS
from pytest_quantgate.codecs.bounds_codebook import scale_limits
from pytest_quantgate.codecs.rounding import half_ulp16
from pytest_quantgate.gguf.formats import TENSOR_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_quantgate.engines.worker.native import NativeCodecs

    Block = np.ndarray[tuple[int], np.dtype[np.float64]]

BETWEEN_HALVES = 1 + 2.0**-11 - 2.0**-22
"""Just below the midpoint of two half-precision numbers: a scale that is rounded down by almost
h."""


def mxfp4() -> Block:
    x = np.zeros(32)
    x[:2] = 6.0, 5.0  # 5 lies between 4 and 6
    return x


def symmetric(levels: int) -> Block:
    d = BETWEEN_HALVES
    x = np.zeros(32)
    x[:2] = -levels * d, levels * d * (1 - 2.0**-20)  # the largest code is levels − 1
    return x


def q8_0() -> Block:
    x = np.zeros(32)
    x[:2] = np.array([127, 126.499]) * BETWEEN_HALVES
    return x


def affine(top: int) -> Block:
    low = 16 * BETWEEN_HALVES
    d = BETWEEN_HALVES
    x = np.full(32, low)
    x[:2] = low + top * d, low + (top - 0.501) * d
    return x


def nvfp4() -> Block:
    x = np.zeros(64)
    x[:2] = 6.0, 5.0  # 5 lies between 4 and 6
    return x


def ternary(elements: int) -> Block:
    x = np.zeros(elements)
    x[:2] = np.array([1.0, 0.5001]) * BETWEEN_HALVES
    return x


def binary() -> Block:
    x = np.ones(128)
    x[:2] = 3.0, 0.5
    return x


def searched(seed: int) -> Block:
    """Sub-blocks on a coarse grid at different magnitudes; seeds are the best of 20,000."""
    rng = np.random.default_rng(seed)
    size = 16 if seed % 2 else 32
    levels = int(rng.choice([3, 7, 15, 31, 63]))
    x = rng.integers(-levels, levels + 1, 256) * 1.0
    rng.uniform(0, 1)
    if seed % 3 == 0:
        x = np.abs(x)
    if seed % 3 == 1:
        x = -np.abs(x)
    scale = np.repeat(10.0 ** rng.uniform(-3, 0, 256 // size), size)
    scale[:size] = 1
    if seed % 5 == 0:
        scale[:] = 1
    if seed % 7 == 0:
        x = rng.standard_normal(256)
    return np.asarray(x * scale / levels * 2.0 ** rng.uniform(0, 1))


EXAMPLES: dict[str, Callable[[], Block]] = {
    "MXFP4": mxfp4,
    "Q8_0": q8_0,
    "Q4_0": lambda: symmetric(8),
    "Q5_0": lambda: symmetric(16),
    "Q4_1": lambda: affine(15),
    "Q5_1": lambda: affine(31),
    "Q2_K": lambda: searched(19632),
    "Q3_K": lambda: searched(15344),
    "Q4_K": lambda: searched(10986),
    "Q5_K": lambda: searched(17316),
    "Q6_K": lambda: searched(19519),
    "IQ4_NL": lambda: searched(2105),
    "IQ4_XS": lambda: searched(17014),
    "NVFP4": nvfp4,
    "TQ1_0": lambda: ternary(256),
    "TQ2_0": lambda: ternary(256),
    "Q1_0": binary,
    "Q2_0": lambda: ternary(64),
}


def test_every_bound_has_an_example() -> None:
    assert EXAMPLES.keys() == BOUNDS.keys()


@pytest.mark.parametrize("name", BOUNDS)
def test_bound_is_attained_within_its_factor(name: str, native_codecs: NativeCodecs) -> None:
    rows = EXAMPLES[name]().astype(np.float32)[None, :]
    bound = BOUNDS[name](rows)
    decoded = native_codecs.dequantize(name, native_codecs.quantize(name, rows))
    error = np.abs(rows.astype(np.float64) - decoded)
    # an element that matters: no smaller than an eighth of the largest
    large = (np.abs(rows) >= np.abs(rows).max() / 8) & (bound > 0)
    ratio = (error[large] / bound[large]).max()
    assert 1 / BOUNDS[name].factor <= ratio <= 1


@pytest.mark.parametrize("name", BOUNDS)
def test_nothing_is_claimed_outside_the_domain(name: str) -> None:
    rows = np.full(
        (1, TENSOR_TYPES[name].block_elements), BOUNDS[name].max_magnitude * 1.5, dtype=np.float32
    )
    rows[0, 0] *= -1
    assert np.isinf(BOUNDS[name](rows)).all()
    rows[0, 0] = np.nan
    assert np.isinf(BOUNDS[name](rows)).all()


def test_half_ulp_is_the_largest_rounding_of_a_half() -> None:
    values = np.exp(np.random.default_rng(0).uniform(-20, 11, 20_000))
    rounded = values.astype(np.float16).astype(np.float64)
    ratio = np.abs(values - rounded) / half_ulp16(values)
    assert ratio.max() <= 1
    assert ratio.max() > 0.999


def test_iq4_scale_limits_hold_and_are_near(native_codecs: NativeCodecs) -> None:
    """The interval that the least-squares argument gives contains what the engine stores."""
    least, most = scale_limits()
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((20_000, 32)).astype(np.float32)
    data = native_codecs.quantize("IQ4_NL", rows)
    scale = np.abs(np.ascontiguousarray(data[:, :2]).view(np.float16).astype(np.float64)[:, 0])
    ratio = scale / np.abs(rows).max(axis=1)
    assert (ratio >= least * (1 - 2.0**-10)).all()
    assert (ratio <= most * (1 + 2.0**-10)).all()
    assert ratio.max() > 0.9 * most
