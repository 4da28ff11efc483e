"""A fault in a codec fails at least one property; the faultless copy passes them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pytest_quantgate.codecs.adapters import NativeCodec
from pytest_quantgate.codecs.bounds import BOUNDS
from pytest_quantgate.codecs.golden import check_golden
from pytest_quantgate.codecs.names import QUANTIZED_TYPES
from pytest_quantgate.codecs.properties import PROPERTIES
from pytest_quantgate.codecs.runner import CodecProfile, properties_of, run_property
from pytest_quantgate.codecs.strategies import KINDS
from pytest_quantgate.codecs.violation import Violation
from tests.codecs import faulty
from tests.codecs.reference import ReferenceMxfp4, ReferenceQ4K

if TYPE_CHECKING:
    from pytest_quantgate.codecs.codec import Codec
    from pytest_quantgate.engines.worker.native import NativeCodecs

BUDGET = CodecProfile(name="mutations", examples=20, examples_by_type={}, derandomize=True)

MUTANTS: dict[str, Codec] = {
    "MXFP4 stores an exponent one too high": ReferenceMxfp4(exponent=1),
    "MXFP4 stores an exponent one too low": ReferenceMxfp4(exponent=-1),
    "MXFP4 decodes an exponent one too high": ReferenceMxfp4(decoded_exponent=1),
    "MXFP4 rounds halves away from zero": ReferenceMxfp4(half_up=True),
    "MXFP4 stores its nibbles swapped": ReferenceMxfp4(swap_stored=True),
    "MXFP4 pairs neighbours, storing and decoding": ReferenceMxfp4(interleave=True),
    "MXFP4 decodes its largest code as 5": ReferenceMxfp4(largest=10),
    "Q4_K exchanges one sub-block's scale and minimum": ReferenceQ4K(exchange=5),
    "Q4_K packs six bits one bit off": ReferenceQ4K(shift=5),
    "Q4_K reads the high bits from the wrong byte": ReferenceQ4K(decode_from=0),
    "Q4_K truncates its codes": ReferenceQ4K(truncate=True),
    "Q4_K divides the largest scale by 64": ReferenceQ4K(divisor=64.0),
    "Q4_K rounds minima down": ReferenceQ4K(floor_minimum=True),
    "Q4_K decodes one group's nibbles swapped": ReferenceQ4K(swap_group=2),
}

KILLED: dict[str, tuple[tuple[type[NativeCodec], str], ...]] = {
    "bound": (*((faulty.ScaleTooLarge, name) for name in BOUNDS),),
    "finite": ((faulty.LargestOverflows, "IQ2_XS"), (faulty.LargestOverflows, "Q4_K")),
    "grid": ((faulty.LastBitOff, "MXFP4"), (faulty.LastBitOff, "Q6_K")),
    "fixed-point": ((faulty.ScaleTooLarge, "Q8_0"), (faulty.ScaleTooLarge, "Q4_K")),
    "power-of-two": ((faulty.ExponentOffAboveOne, "MXFP4"),),
    "sign": ((faulty.LastBitOff, "NVFP4"), (faulty.LastBitOff, "IQ4_NL")),
    "locality": ((faulty.BlocksLeak, "IQ3_S"), (faulty.BlocksLeak, "Q4_K")),
    "zeros": ((faulty.ZeroIsTiny, "IQ1_S"), (faulty.ZeroIsTiny, "Q4_0")),
    "ties": ((faulty.HalvesDown, "Q8_0"), (faulty.HalvesDown, "Q5_1")),
    "outside-domain": ((faulty.BlocksLeak, "Q5_0"), (faulty.BlocksLeak, "MXFP4")),
    "imatrix": ((faulty.MatrixUpsideDown, "Q4_K"), (faulty.MatrixNotIgnored, "Q8_0")),
    "gguf-dequantize": ((faulty.LastBitOff, "IQ2_XXS"), (faulty.LastBitOff, "Q3_K")),
    "gguf-quantize": ((faulty.LastCodeOff, "TQ1_0"), (faulty.LastCodeOff, "Q4_1")),
}
"""Faults that each property notices by itself."""


def test_every_property_has_a_fault_that_it_notices() -> None:
    assert KILLED.keys() == PROPERTIES.keys()


@pytest.mark.parametrize(
    ("promise", "fault", "name"),
    [(promise, *fault) for promise, faults in KILLED.items() for fault in faults],
)
def test_property_notices_the_fault_and_nothing_else(
    promise: str, fault: type[NativeCodec], name: str, native_codecs: NativeCodecs
) -> None:
    with pytest.raises(Violation) as caught:
        run_property(PROPERTIES[promise], fault(native_codecs, name), BUDGET)
    assert caught.value.property_name == promise
    run_property(PROPERTIES[promise], NativeCodec(native_codecs, name), BUDGET)


@pytest.mark.parametrize("name", QUANTIZED_TYPES)
def test_exchanged_neighbours_are_noticed_in_every_type(
    name: str, native_codecs: NativeCodecs
) -> None:
    violation = first_violation(faulty.NeighboursExchanged(native_codecs, name))
    assert violation is not None
    assert violation.type_name == name


@pytest.mark.parametrize("name", QUANTIZED_TYPES)
def test_a_larger_error_fails_the_golden_figure_of_every_type(
    name: str, native_codecs: NativeCodecs
) -> None:
    with pytest.raises(Violation, match="golden-rms"):
        check_golden(faulty.NeighboursExchanged(native_codecs, name))


def first_violation(codec: Codec) -> Violation | None:
    for promise in properties_of(codec):
        try:
            run_property(promise, codec, BUDGET)
        except Violation as violation:
            return violation
    return None


@pytest.mark.parametrize("name", MUTANTS)
def test_fault_is_caught(name: str) -> None:
    violation = first_violation(MUTANTS[name])
    assert violation is not None, f"no property notices that {name}"
    assert violation.replay.startswith("python -m pytest_quantgate.codecs.replay")


@pytest.mark.parametrize("codec", [ReferenceMxfp4(), ReferenceQ4K()], ids=["MXFP4", "Q4_K"])
def test_faultless_copy_passes(codec: Codec) -> None:
    assert first_violation(codec) is None


@pytest.mark.parametrize("codec", [ReferenceMxfp4(), ReferenceQ4K()], ids=["MXFP4", "Q4_K"])
@pytest.mark.parametrize("kind", ["normal", "heavy-tailed", "outliers", "sparse", "integers"])
def test_faultless_copy_decodes_to_what_the_engine_decodes_to(
    codec: Codec, kind: str, native_codecs: NativeCodecs
) -> None:
    # not the bytes: under a scale of zero the engine leaves the codes of its search
    rng = np.random.default_rng(7)
    rows = np.concatenate([KINDS[kind](rng, 256) for _ in range(64)]).astype(np.float32)[None, :]
    native = NativeCodec(native_codecs, codec.spec.name)
    ours, theirs = codec.dequantize(codec.quantize(rows)), native.dequantize(native.quantize(rows))
    np.testing.assert_array_equal(ours, theirs)
