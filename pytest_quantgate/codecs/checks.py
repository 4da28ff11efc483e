"""The checks behind the properties: each takes a codec and a case and raises a :class:`Violation`.

The statements are in ``docs/codecs.md``, "The properties".
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.codecs import ties
from pytest_quantgate.codecs.adapters import gguf_codec
from pytest_quantgate.codecs.bounds import BOUNDS
from pytest_quantgate.codecs.violation import Case, Violation

if TYPE_CHECKING:
    import numpy.typing as npt

    from pytest_quantgate.codecs.codec import Codec

    Float32Array = npt.NDArray[np.float32]
    Uint8Array = npt.NDArray[np.uint8]
    Mask = npt.NDArray[np.bool_]

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
"""The quantizer takes no notice of an importance matrix."""


def _rows(case: Case) -> Float32Array:
    assert case.rows is not None
    return case.rows


def _fail(
    codec: Codec,
    name: str,
    what: str,
    *,
    rows: Float32Array,
    decoded: Float32Array,
    wrong: Mask,
    bound: npt.NDArray[np.float64] | None = None,
    data: Uint8Array | None = None,
    whole: bool = False,
) -> Violation:
    """Describe the first wrong element; the case is cut down to its block unless ``whole``."""
    flat = int(np.flatnonzero(wrong.ravel())[0])
    block, element = divmod(flat, codec.spec.block_elements)
    x = rows.reshape(-1, codec.spec.block_elements)[block]
    y = decoded.reshape(-1, codec.spec.block_elements)[block]
    stored = codec.quantize(rows) if data is None else data
    block_bytes = stored.reshape(-1, codec.spec.block_bytes)[block]
    return Violation(
        property_name=name,
        type_name=codec.spec.name,
        codec=codec.label,
        what=what,
        case=Case(rows=rows if whole else x[None, :].copy()),
        block=block,
        element=element,
        value=float(x[element]),
        decoded=float(y[element]),
        error=abs(float(x[element]) - float(y[element])),
        bound=None if bound is None else float(bound.reshape(-1, x.size)[block, element]),
        block_hex=block_bytes.tobytes().hex(),
        values=[float(value) for value in x],
    )


def bound_holds(codec: Codec, case: Case) -> None:
    """No element is further from its value than the format's proved bound."""
    rows = _rows(case)
    data = codec.quantize(rows)
    decoded = codec.dequantize(data)
    limit = BOUNDS[codec.spec.name](rows)
    error = np.abs(rows.astype(np.float64) - decoded)
    wrong = ~(error <= limit)
    if wrong.any():
        raise _fail(
            codec,
            "bound",
            "an error above its bound",
            rows=rows,
            decoded=decoded,
            wrong=wrong,
            bound=limit,
            data=data,
        )


def stays_finite(codec: Codec, case: Case) -> None:
    """Finite values inside the format's domain decode to finite values."""
    rows = _rows(case)
    decoded = codec.dequantize(codec.quantize(rows))
    wrong = ~np.isfinite(decoded)
    if wrong.any():
        raise _fail(
            codec,
            "finite",
            "finite values decode to NaN or infinity",
            rows=rows,
            decoded=decoded,
            wrong=wrong,
        )


def grid_is_exact(codec: Codec, case: Case) -> None:
    """Values that the format represents come back exactly."""
    rows = _rows(case)
    decoded = codec.dequantize(codec.quantize(rows))
    wrong = rows != decoded
    if wrong.any():
        raise _fail(
            codec, "grid", "a representable value changed", rows=rows, decoded=decoded, wrong=wrong
        )


def is_fixed_point(codec: Codec, case: Case) -> None:
    """Quantizing the decoded values again changes nothing, or no more than the bound allows."""
    rows = _rows(case)
    once = codec.dequantize(codec.quantize(rows))
    if not np.isfinite(once).all():
        return
    twice = codec.dequantize(codec.quantize(once))
    if codec.spec.name in FIXED_POINT:
        wrong = once != twice
    else:
        change = np.abs(once.astype(np.float64) - twice)
        wrong = ~(change <= BOUNDS[codec.spec.name](once))
    if wrong.any():
        raise _fail(
            codec,
            "fixed-point",
            "a second pass changed a decoded value",
            rows=rows,
            decoded=twice,
            wrong=wrong,
        )


def commutes_with_powers_of_two(codec: Codec, case: Case) -> None:
    """MXFP4: scaling by 2^k moves the exponent byte by k and no code."""
    n = codec.spec.block_elements
    parts = _rows(case).reshape(-1, n)
    amax = np.abs(parts).max(axis=1)
    mantissa, _ = np.frexp(amax)
    # just below a power of two float32's log2 may round up, at some exponents only
    inside = (amax >= 2.0**-60) & (amax <= 2.0**60) & (mantissa < 1 - 2.0**-16)
    rows = np.where(inside[:, None], parts, np.float32(1)).reshape(1, -1)
    data = codec.quantize(rows).reshape(-1, codec.spec.block_bytes)
    for power in (-37, -1, 1, 20):
        other = codec.quantize(np.ldexp(rows, power)).reshape(-1, codec.spec.block_bytes)
        wrong = (other[:, 1:] != data[:, 1:]).any(axis=1) | (
            other[:, 0].astype(int) != data[:, 0].astype(int) + power
        )
        if wrong.any():
            raise _fail(
                codec,
                "power-of-two",
                f"scaling by 2^{power} is not a shift of the exponent",
                rows=rows,
                decoded=codec.dequantize(other.reshape(1, -1)),
                wrong=np.repeat(wrong, n),
            )


def is_odd(codec: Codec, case: Case) -> None:
    """−x decodes to the negative of what x decodes to."""
    rows = _rows(case)
    decoded = codec.dequantize(codec.quantize(rows))
    mirrored = codec.dequantize(codec.quantize(-rows))
    wrong = decoded != -mirrored
    if wrong.any():
        raise _fail(
            codec,
            "sign",
            "the negated block decodes differently",
            rows=rows,
            decoded=mirrored,
            wrong=wrong,
        )


def is_local(codec: Codec, case: Case) -> None:
    """Check that changing one block changes no byte of another."""
    rows = _rows(case)
    n = codec.spec.block_elements
    size = codec.spec.block_bytes
    row = np.concatenate([rows[0, :n], np.linspace(-1, 1, n, dtype=np.float32), rows[0, -n:]])[
        None, :
    ]
    before = codec.quantize(row).reshape(3, size)
    changed = row.copy()
    changed[0, n : 2 * n] = changed[0, n : 2 * n][::-1] * np.float32(17)
    after = codec.quantize(changed).reshape(3, size)
    wrong = (before != after).any(axis=1) & np.array([True, False, True])
    if wrong.any():
        raise _fail(
            codec,
            "locality",
            "changing one block changed another",
            rows=row,
            decoded=codec.dequantize(after.reshape(1, -1)),
            wrong=np.repeat(wrong, n),
            whole=True,
        )


def keeps_zeros(codec: Codec, case: Case) -> None:
    """Check that zero blocks stay zero, and single zeros too where the grid has a zero."""
    rows = _rows(case)
    n = codec.spec.block_elements
    rows = np.concatenate([rows, np.zeros((1, n), dtype=np.float32)], axis=1)
    decoded = codec.dequantize(codec.quantize(rows))
    zero = rows == 0
    if codec.spec.name not in HAS_ZERO:
        blank = (rows.reshape(-1, n) == 0).all(axis=1)
        zero = np.repeat(blank, n).reshape(rows.shape)
    wrong = zero & ~(decoded == 0)
    if wrong.any():
        raise _fail(
            codec,
            "zeros",
            "a zero came back as another value",
            rows=rows,
            decoded=decoded,
            wrong=wrong,
        )


def resolves_ties(codec: Codec, case: Case) -> None:
    """Check that a value exactly between two levels goes where the format's rule sends it."""
    rows = _rows(case)
    expected = ties.tie_targets(codec.spec.name, rows)
    decoded = codec.dequantize(codec.quantize(rows))
    wrong = decoded != expected
    if wrong.any():
        raise _fail(
            codec,
            "ties",
            "a value between two levels went the other way",
            rows=rows,
            decoded=decoded,
            wrong=wrong,
        )


def contains_overflow(codec: Codec, case: Case) -> None:
    """Outside the domain: a block too large for its stored scale harms no other block.

    MXFP4's exponent reaches every finite float32, so there it must also decode to finite values.
    """
    rows = _rows(case)
    n = codec.spec.block_elements
    huge = np.full((1, n), 3e38, dtype=np.float32) * np.sign(rows[:, :n] + np.float32(0.5))
    data = codec.quantize(np.concatenate([rows, huge, rows], axis=1))
    alone = codec.quantize(rows)
    size = alone.shape[1]
    decoded = codec.dequantize(data)
    wrong = np.zeros(decoded.shape, dtype=bool)
    wrong[:, : rows.shape[1]] = (data[:, :size] != alone).any()
    wrong[:, -rows.shape[1] :] = (data[:, -size:] != alone).any()
    if codec.spec.name == "MXFP4":
        wrong |= ~np.isfinite(decoded)
    if wrong.any():
        raise _fail(
            codec,
            "outside-domain",
            "a huge block harmed its neighbours, or MXFP4 overflowed",
            rows=np.concatenate([rows, huge, rows], axis=1),
            decoded=decoded,
            wrong=wrong,
            data=data,
            whole=True,
        )


def imatrix_helps(codec: Codec, case: Case) -> None:
    """Check that a matrix raises the weighted squared error by at most the stated factor.

    Types that ignore it give the same bytes.
    """
    rows = _rows(case)
    assert case.imatrix is not None
    without, with_matrix = codec.quantize(rows), codec.quantize(rows, case.imatrix)
    size = codec.spec.block_bytes
    if codec.spec.name in IGNORES_IMATRIX:
        wrong_blocks = (without != with_matrix).reshape(-1, size).any(axis=1)
        what, ratio = "an importance matrix changed a format that ignores it", 1.0
    else:
        weight = case.imatrix.astype(np.float64)
        plain, weighted = (
            float((weight * (rows.astype(np.float64) - codec.dequantize(data)) ** 2).sum())
            for data in (without, with_matrix)
        )
        ratio = weighted / plain if plain > 0 else (0.0 if weighted == 0 else np.inf)
        limit = 1.0 if case.limit is None else case.limit
        what = f"the weighted squared error is {ratio:.4f} times that without; allowed is {limit}"
        wrong_blocks = np.full(without.size // size, not ratio <= limit)
    if wrong_blocks.any():
        violation = _fail(
            codec,
            "imatrix",
            what,
            rows=rows,
            decoded=codec.dequantize(with_matrix),
            wrong=np.repeat(wrong_blocks, codec.spec.block_elements),
            data=with_matrix,
            whole=True,
        )
        violation.case = replace(violation.case, imatrix=case.imatrix, limit=case.limit)
        raise violation


def decodes_as_gguf(codec: Codec, case: Case) -> None:
    """Arbitrary blocks decode to the same bits as gguf's ``dequantize`` gives."""
    assert case.data is not None
    reference = gguf_codec(codec.spec.name)
    assert reference is not None
    ours, theirs = codec.dequantize(case.data), reference.dequantize(case.data)
    both = np.isfinite(ours) & np.isfinite(theirs)
    wrong = (ours.view(np.uint32) != theirs.view(np.uint32)) & both
    wrong |= np.isfinite(ours) != np.isfinite(theirs)
    if codec.spec.name == "MXFP4":
        wrong &= np.repeat(case.data[:, :1] < 255, codec.spec.block_elements, axis=1)
    if wrong.any():
        block, element = (int(i) for i in np.argwhere(wrong)[0])
        raise Violation(
            property_name="gguf-dequantize",
            type_name=codec.spec.name,
            codec=codec.label,
            what=f"gguf decodes it to {float(theirs[block, element])!r}",
            case=Case(data=case.data[block : block + 1]),
            block=block,
            element=element,
            decoded=float(ours[block, element]),
            block_hex=case.data[block].tobytes().hex(),
        )


def quantizes_as_gguf(codec: Codec, case: Case) -> None:
    """Check that the stored bytes equal those of gguf's ``quantize``.

    Negative zeros are made positive first: in a block of nothing else the two store scales of zero
    with different signs (docs: "Deviations").
    """
    rows = _rows(case) + np.float32(0)
    reference = gguf_codec(codec.spec.name)
    assert reference is not None
    data = codec.quantize(rows)
    theirs = reference.quantize(rows)
    wrong = (data != theirs).reshape(-1, codec.spec.block_bytes).any(axis=1)
    if wrong.any():
        raise _fail(
            codec,
            "gguf-quantize",
            f"gguf stores {theirs.reshape(wrong.size, -1)[wrong][0].tobytes().hex()}",
            rows=rows,
            decoded=codec.dequantize(data),
            wrong=np.repeat(wrong, codec.spec.block_elements),
            data=data,
        )
