"""What every quantized format promises: each promise's formats, cases and check.

The statements are in ``docs/explanation/codecs.md``, "The properties".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.codecs import strategies, ties
from pytest_quantgate.codecs.adapters import gguf_codec
from pytest_quantgate.codecs.bounds import BOUNDS
from pytest_quantgate.codecs.promise import Outcome, Property
from pytest_quantgate.codecs.violation import Case, Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis import strategies as st

    from pytest_quantgate.codecs.adapters import GgufCodec
    from pytest_quantgate.codecs.codec import Codec, CodecSpec, Float32Array

__all__ = ["PROPERTIES", "Property", "Violation"]

HAS_ZERO = frozenset({"MXFP4", "Q8_0", "Q4_0", "Q5_0", "Q3_K", "Q6_K", "TQ1_0", "TQ2_0", "Q2_0"})
"""The grid has a zero, which a zero weight is rounded to."""

SYMMETRIC = frozenset(
    {"MXFP4", "NVFP4", "Q8_0", "Q4_0", "Q5_0", "Q6_K", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0"}
)
"""−x is quantized to the negative of what x is: the grid is symmetric, or takes its scale's sign
from the largest element. Q3_K is not here: it refines scales of one sign only (docs:
"Deviations")."""

FIXED_POINT = frozenset({"MXFP4", "Q8_0", "Q4_0", "Q5_0", "TQ1_0", "TQ2_0", "Q1_0"})
"""Quantizing what was decoded gives the same values."""

IGNORES_IMATRIX = frozenset({"MXFP4", "NVFP4", "Q8_0", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0"})
"""The quantizer ignores an importance matrix."""


PROPERTIES: dict[str, Property] = {}
"""Every property, by its name."""


def _as_case(
    draw_rows: Callable[[CodecSpec], st.SearchStrategy[Float32Array]],
) -> Callable[[CodecSpec], st.SearchStrategy[Case]]:
    return lambda spec: draw_rows(spec).map(lambda rows: Case(rows=rows))


_weights = _as_case(strategies.weight_rows)
_plain = _as_case(strategies.plain_rows)


def _bounded(spec: CodecSpec) -> bool:
    return spec.name in BOUNDS


def _gguf(spec: CodecSpec) -> GgufCodec:
    codec = gguf_codec(spec.name)
    if codec is None:
        raise ValueError(f"gguf has no {spec.name}; the property does not apply")
    return codec


def _gguf_quantizes(spec: CodecSpec) -> bool:
    codec = gguf_codec(spec.name)
    return codec is not None and codec.can_quantize


def _promise(
    name: str,
    *,
    applies: Callable[[CodecSpec], bool] = lambda _: True,
    cases: Callable[[CodecSpec], st.SearchStrategy[Case]] = _weights,
) -> Callable[[Callable[[Codec, Case], Outcome]], Callable[[Codec, Case], Outcome]]:
    """Register a comparison as a property."""

    def register(compare: Callable[[Codec, Case], Outcome]) -> Callable[[Codec, Case], Outcome]:
        PROPERTIES[name] = Property(name=name, applies=applies, cases=cases, compare=compare)
        return compare

    return register


def _rows(case: Case) -> Float32Array:
    if case.rows is None:
        raise ValueError("this property is of values; give --values")
    return case.rows


@_promise("bound", applies=_bounded)
def bound_holds(codec: Codec, case: Case) -> Outcome:
    """No element is further from its value than the format's proved bound."""
    rows = _rows(case)
    data = codec.quantize(rows)
    decoded = codec.dequantize(data)
    bound = BOUNDS[codec.spec.name](rows)
    wrong = ~(np.abs(rows.astype(np.float64) - decoded) <= bound)
    what = "an error above its bound"
    return Outcome(what=what, wrong=wrong, data=data, decoded=decoded, values=rows, bound=bound)


@_promise("finite")
def stays_finite(codec: Codec, case: Case) -> Outcome:
    """Finite values inside the format's domain decode to finite values."""
    rows = _rows(case)
    data = codec.quantize(rows)
    decoded = codec.dequantize(data)
    what, wrong = "finite values decode to NaN or infinity", ~np.isfinite(decoded)
    return Outcome(what=what, wrong=wrong, data=data, decoded=decoded, values=rows)


@_promise(
    "grid",
    applies=lambda spec: spec.name in strategies.GRIDS,
    cases=_as_case(strategies.grid_rows),
)
def grid_is_exact(codec: Codec, case: Case) -> Outcome:
    """Values that the format represents come back exactly."""
    rows = _rows(case)
    data = codec.quantize(rows)
    decoded = codec.dequantize(data)
    what, wrong = "a representable value changed", rows != decoded
    return Outcome(what=what, wrong=wrong, data=data, decoded=decoded, values=rows)


@_promise("fixed-point", applies=lambda spec: spec.name in BOUNDS or spec.name in FIXED_POINT)
def is_fixed_point(codec: Codec, case: Case) -> Outcome:
    """Quantizing the decoded values again changes nothing, or no more than the bound allows."""
    rows = _rows(case)
    data = codec.quantize(rows)
    once = codec.dequantize(data)
    if np.isfinite(once).all():
        data = codec.quantize(once)
    twice = codec.dequantize(data)
    bound = None
    if codec.spec.name in FIXED_POINT or not np.isfinite(once).all():
        wrong = (once != twice) & np.isfinite(once)
    else:
        bound = BOUNDS[codec.spec.name](once)
        wrong = ~(np.abs(once.astype(np.float64) - twice) <= bound)
    return Outcome(
        what="a second pass changed a decoded value; expected is what the first one gave",
        wrong=wrong,
        data=data,
        decoded=twice,
        values=rows,
        expected=once,
        bound=bound,
    )


@_promise("power-of-two", applies=lambda spec: spec.name == "MXFP4")
def commutes_with_powers_of_two(codec: Codec, case: Case) -> Outcome:
    """MXFP4: scaling by 2^k moves the exponent byte by k and no code."""
    blocks = _rows(case).reshape(-1, codec.spec.block_elements)
    amax = np.abs(blocks).max(axis=1)
    mantissa, _ = np.frexp(amax)
    # just below a power of two float32's log2 may round up, at some exponents only
    inside = (amax >= 2.0**-60) & (amax <= 2.0**60) & (mantissa < 1 - 2.0**-16)
    rows = np.where(inside[:, None], blocks, np.float32(1)).reshape(1, -1)
    data = codec.quantize(rows).reshape(-1, codec.spec.block_bytes)
    for power in (-37, -1, 1, 20):
        scaled = codec.quantize(np.ldexp(rows, power)).reshape(data.shape)
        wrong = (scaled[:, 1:] != data[:, 1:]).any(axis=1)
        wrong |= scaled[:, 0].astype(int) != data[:, 0].astype(int) + power
        if wrong.any():
            break
    return Outcome(
        what=f"scaled by 2^{power}, and decoded and scaled back, it is not what it is unscaled",
        wrong=wrong,
        data=scaled,
        decoded=np.ldexp(codec.dequantize(scaled.reshape(1, -1)), -power),
        values=rows,
        expected=codec.dequantize(data.reshape(1, -1)),
    )


@_promise("sign", applies=lambda spec: spec.name in SYMMETRIC)
def is_odd(codec: Codec, case: Case) -> Outcome:
    """−x decodes to the negative of what x decodes to."""
    rows = _rows(case)
    data = codec.quantize(rows)
    decoded, negated = codec.dequantize(data), -codec.dequantize(codec.quantize(-rows))
    return Outcome(
        what="−x does not decode to the negative of what x decodes to; expected is −decoded(−x)",
        wrong=decoded != negated,
        data=data,
        decoded=decoded,
        values=rows,
        expected=negated,
    )


@_promise("locality")
def is_local(codec: Codec, case: Case) -> Outcome:
    """Check that changing one block changes no byte of another."""
    rows = _rows(case)
    n = codec.spec.block_elements
    row = np.concatenate([rows[0, :n], np.linspace(-1, 1, n, dtype=np.float32), rows[0, -n:]])
    changed = row.copy()
    changed[n : 2 * n] = changed[n : 2 * n][::-1] * np.float32(17)
    before, after = codec.quantize(row[None, :]), codec.quantize(changed[None, :])
    wrong = (before != after).reshape(3, -1).any(axis=1) & np.array([True, False, True])
    return Outcome(
        what="changing the block in the middle changed another",
        wrong=wrong,
        data=after,
        decoded=codec.dequantize(after),
        values=changed[None, :],
        expected=codec.dequantize(before),
        needs_all=True,
    )


@_promise("zeros")
def keeps_zeros(codec: Codec, case: Case) -> Outcome:
    """Zero blocks stay zero, and single zeros too where the grid has a zero."""
    n = codec.spec.block_elements
    rows = np.concatenate([_rows(case), np.zeros((1, n), dtype=np.float32)], axis=1)
    data = codec.quantize(rows)
    decoded = codec.dequantize(data)
    zero = rows == 0
    if codec.spec.name not in HAS_ZERO:
        zero = np.repeat(zero.reshape(-1, n).all(axis=1), n).reshape(rows.shape)
    what, wrong = "a zero came back as another value", zero & ~(decoded == 0)
    return Outcome(what=what, wrong=wrong, data=data, decoded=decoded, values=rows)


@_promise(
    "ties", applies=lambda spec: spec.name in ties.BLOCKS, cases=_as_case(strategies.tie_rows)
)
def resolves_ties(codec: Codec, case: Case) -> Outcome:
    """Check that a value exactly between two levels goes where the format's rule sends it."""
    rows = _rows(case)
    expected = ties.tie_targets(codec.spec.name, rows)
    data = codec.quantize(rows)
    decoded = codec.dequantize(data)
    return Outcome(
        what="a value between two levels went the other way",
        wrong=decoded != expected,
        data=data,
        decoded=decoded,
        values=rows,
        expected=expected,
    )


@_promise("outside-domain", applies=_bounded, cases=_plain)
def contains_overflow(codec: Codec, case: Case) -> Outcome:
    """Outside the domain: a block too large for its stored scale harms no other block.

    MXFP4's exponent reaches every finite float32, so there it must also decode to finite values.
    """
    rows = _rows(case)
    n, k = codec.spec.block_elements, rows.shape[1]
    huge = np.full((1, n), 3e38, dtype=np.float32) * np.sign(rows[:, :n] + np.float32(0.5))
    row = np.concatenate([rows, huge, rows], axis=1)
    data, alone = codec.quantize(row), codec.quantize(rows)
    decoded, expected = codec.dequantize(data), row.copy()
    expected[:, :k] = expected[:, -k:] = codec.dequantize(alone)
    separate = np.concatenate([alone, data[:, alone.size : -alone.size], alone], axis=1)
    wrong = np.repeat((data != separate).reshape(-1, codec.spec.block_bytes).any(axis=1), n)
    if codec.spec.name == "MXFP4":
        wrong |= ~np.isfinite(decoded).ravel()
    return Outcome(
        what="a huge block harmed its neighbours, or MXFP4 overflowed",
        wrong=wrong,
        data=data,
        decoded=decoded,
        values=row,
        expected=expected,
        needs_all=True,
    )


@_promise("imatrix", cases=strategies.imatrix_cases)
def imatrix_helps(codec: Codec, case: Case) -> Outcome:
    """Check that a matrix raises the weighted squared error by at most the stated factor.

    Types that ignore it give the same bytes.
    """
    rows, matrix = _rows(case), case.imatrix
    if matrix is None:
        raise ValueError("this property is of an importance matrix; give --imatrix")
    without, data = codec.quantize(rows), codec.quantize(rows, matrix)
    plain, decoded = codec.dequantize(without), codec.dequantize(data)
    if codec.spec.name in IGNORES_IMATRIX:
        what = "an importance matrix changed a format that ignores it"
        wrong = (without != data).reshape(-1, codec.spec.block_bytes).any(axis=1)
        expected: Float32Array | None = plain
    else:
        before, after = (
            matrix.astype(np.float64) * (rows.astype(np.float64) - it) ** 2
            for it in (plain, decoded)
        )
        limit = 1.0 if case.limit is None else case.limit
        ratio = after.sum() / before.sum() if before.any() else np.inf if after.any() else 0.0
        what = f"the weighted squared error is {ratio:.4f} times that without; allowed is {limit}"
        wrong = np.zeros(rows.shape, dtype=bool)
        wrong.flat[after.argmax()] = not ratio <= limit
        expected = None
    return Outcome(
        what=what,
        wrong=wrong,
        data=data,
        decoded=decoded,
        values=rows,
        expected=expected,
        needs_all=True,
    )


@_promise(
    "gguf-dequantize",
    applies=lambda spec: gguf_codec(spec.name) is not None,
    cases=lambda spec: strategies.random_bytes(spec).map(lambda data: Case(data=data)),
)
def decodes_as_gguf(codec: Codec, case: Case) -> Outcome:
    """Arbitrary blocks decode to the same bits as gguf's ``dequantize`` gives."""
    if case.data is None:
        raise ValueError("this property is of stored blocks; give --data")
    data = case.data
    decoded, expected = codec.dequantize(data), _gguf(codec.spec).dequantize(data)
    both = np.isfinite(decoded) & np.isfinite(expected)
    wrong = (decoded.view(np.uint32) != expected.view(np.uint32)) & both
    wrong |= np.isfinite(decoded) != np.isfinite(expected)
    if codec.spec.name == "MXFP4":
        wrong &= np.repeat(data[:, :1] < 255, codec.spec.block_elements, axis=1)
    what = "gguf decodes it to another value"
    return Outcome(what=what, wrong=wrong, data=data, decoded=decoded, expected=expected)


@_promise("gguf-quantize", applies=_gguf_quantizes, cases=_plain)
def quantizes_as_gguf(codec: Codec, case: Case) -> Outcome:
    """Check that the stored bytes equal those of gguf's ``quantize``.

    Negative zeros are made positive first: in a block of nothing else the two store scales of zero
    with different signs (docs: "Deviations").
    """
    rows = _rows(case) + np.float32(0)
    data, other = codec.quantize(rows), _gguf(codec.spec).quantize(rows)
    wrong = (data != other).reshape(-1, codec.spec.block_bytes).any(axis=1)
    stored = other.reshape(wrong.size, -1)[wrong.argmax()].tobytes().hex()
    return Outcome(
        what=f"gguf stores {stored}",
        wrong=wrong,
        data=data,
        decoded=codec.dequantize(data),
        values=rows,
        expected=codec.dequantize(other),
    )
