"""What every quantized format promises: each promise's formats, cases and check.

The statements are in ``docs/codecs.md``, "The properties"; the checks in ``checks.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_quantgate.codecs import checks, strategies, ties
from pytest_quantgate.codecs.adapters import gguf_codec
from pytest_quantgate.codecs.bounds import BOUNDS
from pytest_quantgate.codecs.violation import Case, Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis import strategies as st

    from pytest_quantgate.codecs.codec import Codec, CodecSpec

__all__ = ["PROPERTIES", "Property", "Violation"]


@dataclass(frozen=True, kw_only=True)
class Property:
    """A promise: ``check`` raises :class:`Violation` where a codec breaks it on a case."""

    name: str
    applies: Callable[[CodecSpec], bool]
    cases: Callable[[CodecSpec], st.SearchStrategy[Case]]
    check: Callable[[Codec, Case], None]


def _weights(spec: CodecSpec) -> st.SearchStrategy[Case]:
    return strategies.weight_rows(spec).map(lambda rows: Case(rows=rows))


def _plain(spec: CodecSpec) -> st.SearchStrategy[Case]:
    return strategies.plain_rows(spec).map(lambda rows: Case(rows=rows))


def _any(_: CodecSpec) -> bool:
    return True


def _bounded(spec: CodecSpec) -> bool:
    return spec.name in BOUNDS


def _gguf_decodes(spec: CodecSpec) -> bool:
    return gguf_codec(spec.name) is not None


def _gguf_quantizes(spec: CodecSpec) -> bool:
    found = gguf_codec(spec.name)
    return found is not None and found.can_quantize


PROPERTIES: dict[str, Property] = {
    found.name: found
    for found in (
        Property(name="bound", applies=_bounded, cases=_weights, check=checks.bound_holds),
        Property(name="finite", applies=_any, cases=_weights, check=checks.stays_finite),
        Property(
            name="grid",
            applies=lambda spec: spec.name in strategies.GRIDS,
            cases=lambda spec: strategies.grid_rows(spec).map(lambda rows: Case(rows=rows)),
            check=checks.grid_is_exact,
        ),
        Property(
            name="fixed-point",
            applies=lambda spec: spec.name in BOUNDS or spec.name in checks.FIXED_POINT,
            cases=_weights,
            check=checks.is_fixed_point,
        ),
        Property(
            name="power-of-two",
            applies=lambda spec: spec.name == "MXFP4",
            cases=_weights,
            check=checks.commutes_with_powers_of_two,
        ),
        Property(
            name="sign",
            applies=lambda spec: spec.name in checks.SYMMETRIC,
            cases=_weights,
            check=checks.is_odd,
        ),
        Property(name="locality", applies=_any, cases=_weights, check=checks.is_local),
        Property(name="zeros", applies=_any, cases=_weights, check=checks.keeps_zeros),
        Property(
            name="ties",
            applies=lambda spec: spec.name in ties.BLOCKS,
            cases=lambda spec: strategies.tie_rows(spec).map(lambda rows: Case(rows=rows)),
            check=checks.resolves_ties,
        ),
        Property(
            name="outside-domain", applies=_bounded, cases=_plain, check=checks.contains_overflow
        ),
        Property(
            name="imatrix", applies=_any, cases=strategies.imatrix_cases, check=checks.imatrix_helps
        ),
        Property(
            name="gguf-dequantize",
            applies=_gguf_decodes,
            cases=lambda spec: strategies.random_bytes(spec).map(lambda data: Case(data=data)),
            check=checks.decodes_as_gguf,
        ),
        Property(
            name="gguf-quantize",
            applies=_gguf_quantizes,
            cases=_plain,
            check=checks.quantizes_as_gguf,
        ),
    )
}
"""Every property, by its name."""
