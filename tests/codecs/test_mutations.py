"""A fault in a codec fails at least one property; the faultless copy passes them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pytest_quantgate.codecs.adapters import NativeCodec
from pytest_quantgate.codecs.runner import CodecProfile, properties_of, run_property
from pytest_quantgate.codecs.strategies import KINDS
from pytest_quantgate.codecs.violation import Violation
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


def first_violation(codec: Codec) -> Violation | None:
    for found in properties_of(codec):
        try:
            run_property(found, codec, BUDGET)
        except Violation as violation:
            return violation
    return None


def test_there_are_enough_faults() -> None:
    assert len(MUTANTS) >= 12


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
