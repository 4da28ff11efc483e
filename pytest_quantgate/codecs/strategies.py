"""Hypothesis strategies for blocks of weights.

A row is drawn as a small recipe (kind of block, seed, magnitude, edits) and built with numpy, so
that 10,000 examples are cheap and a failing one shrinks to a simple kind at magnitude one with few
edits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from pytest_quantgate.codecs.bounds import BOUNDS, MXFP4_MAX
from pytest_quantgate.codecs.bounds_codebook import LEVELS
from pytest_quantgate.codecs.ties import BLOCKS, E2M1
from pytest_quantgate.codecs.violation import Case

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from pytest_quantgate.codecs.codec import CodecSpec

    Float32Array = npt.NDArray[np.float32]
    Float64Array = npt.NDArray[np.float64]
    Build = Callable[[np.random.Generator, int], Float64Array]

DEFAULT_MAX_MAGNITUDE = 2.0**12
"""The domain of types without a proved bound."""


def _mixed(rng: np.random.Generator, n: int) -> Float64Array:
    scale = 10.0 ** np.repeat(rng.uniform(-4, 1, -(-n // 16)), 16)[:n]
    return np.asarray(rng.standard_normal(n) * scale)


def _outliers(rng: np.random.Generator, n: int) -> Float64Array:
    x = rng.standard_normal(n)
    x[rng.integers(0, n, max(1, n // 64))] *= 50
    return x


def _near_constant(rng: np.random.Generator, n: int) -> Float64Array:
    spread = 10.0 ** rng.uniform(-7, -1)
    return np.asarray(rng.choice([-1.0, 1.0]) + spread * rng.standard_normal(n))


def _near_power_of_two(rng: np.random.Generator, n: int) -> Float64Array:
    x = rng.uniform(-1, 1, n)
    x[rng.integers(n)] = rng.choice([-1.0, 1.0]) * np.float32(1 - 2.0 ** -rng.integers(14, 25))
    return x


KINDS: dict[str, Build] = {
    "constant": lambda _, n: np.ones(n),
    "normal": lambda rng, n: rng.standard_normal(n),
    "uniform": lambda rng, n: rng.uniform(-1, 1, n),
    "positive": lambda rng, n: rng.uniform(rng.uniform(0, 1), 1, n),
    "negative": lambda rng, n: -rng.uniform(rng.uniform(0, 1), 1, n),
    "heavy-tailed": lambda rng, n: rng.standard_t(2, n).clip(-1e3, 1e3),
    "outliers": _outliers,
    "sparse": lambda rng, n: rng.standard_normal(n) * (rng.random(n) < 0.1),
    "mixed magnitudes": _mixed,
    "near constant": _near_constant,
    "near a power of two": _near_power_of_two,
    "two values": lambda rng, n: rng.choice(rng.uniform(-1, 1, 2), n),
    "integers": lambda rng, n: rng.integers(-8, 9, n).astype(np.float64),
    "zero": lambda _, n: np.zeros(n),
    "near four levels": lambda rng, n: rng.integers(-2, 2, n) + rng.uniform(-0.02, 0.02, n),
}
"""How a block's values are distributed, at magnitude one."""

_kinds = st.sampled_from(list(KINDS))
_seeds = st.integers(0, 2**32 - 1)
_edits = st.lists(
    st.tuples(st.integers(0, 255), st.floats(-2, 2, width=32, allow_subnormal=False)), max_size=3
)


def max_magnitude(name: str) -> float:
    """Return the largest |x| of a type's domain."""
    return BOUNDS[name].max_magnitude if name in BOUNDS else DEFAULT_MAX_MAGNITUDE


def exponents(name: str) -> st.SearchStrategy[float]:
    """Powers of two for a block's magnitude: weights mostly, subnormal and huge ones sometimes."""
    top = int(np.log2(max_magnitude(name))) - 1
    return st.one_of(
        st.just(0.0), st.floats(-10, 2), st.floats(-30, top), st.sampled_from([-140.0, -126.0, top])
    )


def _block(draw: st.DrawFn, elements: int) -> Float64Array:
    rng = np.random.default_rng(draw(_seeds))
    x = np.asarray(KINDS[draw(_kinds)](rng, elements), dtype=np.float64)
    for index, value in draw(_edits):
        x[index % elements] = value
    return x


@st.composite
def weight_rows(draw: st.DrawFn, spec: CodecSpec) -> Float32Array:
    """Rows float32 (1, k) inside the type's domain: one to four blocks of one kind each."""
    limit = min(max_magnitude(spec.name), MXFP4_MAX)
    parts = [
        (_block(draw, spec.block_elements) * 2.0 ** draw(exponents(spec.name))).clip(-limit, limit)
        for _ in range(draw(st.integers(1, 4 if spec.block_elements < 256 else 2)))
    ]
    return np.concatenate(parts).astype(np.float32)[None, :]


@st.composite
def plain_rows(draw: st.DrawFn, spec: CodecSpec) -> Float32Array:
    """Rows float32 (1, k) at the magnitude of weights, 2^-10 … 2^4: no scale is subnormal."""
    parts = [_block(draw, spec.block_elements) for _ in range(draw(st.integers(1, 2)))]
    row = np.concatenate(parts) * 2.0 ** draw(st.floats(-10, 4))
    return np.asarray(row, dtype=np.float32)[None, :]


IMATRIX_SLACK = {"normal": 1.05, "uniform": 1.05, "heavy-tailed": 5.0}
"""By what factor a matrix may raise the weighted squared error. llama.cpp minimizes it with other
weights, qw √(σ² + x²), and after the super-block is rounded: on rows with outliers (Student's t of
two degrees) the factor was up to 2.6, in Q2_K (docs: "Importance matrices")."""


@st.composite
def imatrix_cases(draw: st.DrawFn, spec: CodecSpec) -> Case:
    """Weight-like rows (1, 2048) with a matrix (2048,) of log-normal weights, σ up to 1.5."""
    del spec
    rng = np.random.default_rng(draw(_seeds))
    kind = draw(st.sampled_from(list(IMATRIX_SLACK)))
    rows = (KINDS[kind](rng, 2048) * 2.0 ** draw(st.floats(-6, 0))).astype(np.float32)
    matrix = np.exp(draw(st.floats(0, 1.5)) * rng.standard_normal(2048)).astype(np.float32)
    return Case(rows=rows[None, :], imatrix=matrix, limit=IMATRIX_SLACK[kind])


@st.composite
def tie_rows(draw: st.DrawFn, spec: CodecSpec) -> Float32Array:
    """One block of values half way between levels, float32 (1, 32), times a power of two."""
    x = BLOCKS[spec.name](np.random.default_rng(draw(_seeds)))
    return (x * 2.0 ** draw(st.integers(-8, 2))).astype(np.float32)[None, :]


@st.composite
def random_bytes(draw: st.DrawFn, spec: CodecSpec) -> npt.NDArray[np.uint8]:
    """Blocks of arbitrary bytes, uint8 (4, block_bytes)."""
    rng = np.random.default_rng(draw(_seeds))
    data = rng.integers(0, 256, (4, spec.block_bytes), dtype=np.uint8)
    for index, value in draw(
        st.lists(st.tuples(st.integers(0, spec.block_bytes - 1), st.integers(0, 255)), max_size=3)
    ):
        data[0, index] = value
    return data


def _half(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.float16(2.0 ** rng.uniform(low, high)))


def _codes(
    rng: np.random.Generator, low: int, high: int, n: int, must: tuple[int, ...]
) -> Float64Array:
    """Random codes low … high, n of them, with each of ``must`` at least once."""
    codes = rng.integers(low, high + 1, n)
    codes[rng.permutation(n)[: len(must)]] = must
    return codes.astype(np.float64)


def _grid_affine(rng: np.random.Generator, sub: int, top: int, super_top: int) -> Float64Array:
    count = 256 // sub
    d = _half(rng, -8, -2)
    offset = float(np.float16(d * 2.0 ** rng.uniform(-1, 3)))
    scales = _codes(rng, 1, super_top, count, (super_top,))
    minima = _codes(rng, 0, super_top, count, (super_top,))
    codes = np.stack([_codes(rng, 0, top, sub, (0, top)) for _ in range(count)])
    return (d * scales[:, None] * codes - offset * minima[:, None]).ravel()


def _grid_signed(
    rng: np.random.Generator, sub: int, levels: Float64Array, scale_top: int
) -> Float64Array:
    count = 256 // sub
    d = _half(rng, -8, -4) * rng.choice([-1.0, 1.0])
    scales = _codes(rng, -scale_top, scale_top - 1, count, (-scale_top,))
    rows = []
    for scale in scales:
        codes = levels[rng.integers(0, levels.size, sub)]
        codes[rng.integers(sub)] = levels[0]
        rows.append(d * scale * codes)
    return np.concatenate(rows)


GRIDS: dict[str, Callable[[np.random.Generator], Float64Array]] = {
    "MXFP4": lambda rng: (
        2.0 ** rng.integers(-60, 60)
        * np.append(rng.choice(E2M1, 31), rng.choice([4.0, 6.0]))
        * rng.choice([-1.0, 1.0], 32)
    ),
    "Q8_0": lambda rng: _half(rng, -13, 4) * _codes(rng, -127, 127, 32, (127,)),
    "Q4_0": lambda rng: (
        rng.choice([-1.0, 1.0]) * _half(rng, -13, 4) * _codes(rng, -8, 7, 32, (-8,))
    ),
    "Q5_0": lambda rng: (
        rng.choice([-1.0, 1.0]) * _half(rng, -13, 4) * _codes(rng, -16, 15, 32, (-16,))
    ),
    "Q4_1": lambda rng: (
        _half(rng, -8, 0) * _codes(rng, 0, 15, 32, (0, 15)) + float(np.float16(rng.uniform(-8, 8)))
    ),
    "Q5_1": lambda rng: (
        _half(rng, -8, 0) * _codes(rng, 0, 31, 32, (0, 31)) + float(np.float16(rng.uniform(-8, 8)))
    ),
    "Q4_K": lambda rng: _grid_affine(rng, 32, 15, 63),
    "Q5_K": lambda rng: _grid_affine(rng, 32, 31, 63),
    "Q3_K": lambda rng: _grid_signed(rng, 16, np.arange(-4.0, 4.0), 32),
    "Q6_K": lambda rng: _grid_signed(rng, 16, np.arange(-32.0, 32.0), 128),
    "IQ4_NL": lambda rng: (
        rng.choice([-1.0, 1.0]) * _half(rng, -13, 0) * np.append(LEVELS[0], rng.choice(LEVELS, 31))
    ),
    "IQ4_XS": lambda rng: _grid_signed(rng, 32, LEVELS, 32),
    "TQ1_0": lambda rng: _half(rng, -13, 4) * _codes(rng, -1, 1, 256, (1,)),
    "TQ2_0": lambda rng: _half(rng, -13, 4) * _codes(rng, -1, 1, 256, (1,)),
    "Q1_0": lambda rng: _half(rng, -13, 4) * rng.choice([-1.0, 1.0], 128),
}
"""Blocks whose every value the format represents, with the extreme codes present that make its
quantizer find the scale again (docs: "Grid points")."""


@st.composite
def grid_rows(draw: st.DrawFn, spec: CodecSpec) -> Float32Array:
    """One block of exactly representable values, float32 (1, elements)."""
    rng = np.random.default_rng(draw(_seeds))
    return GRIDS[spec.name](rng).astype(np.float32)[None, :]
