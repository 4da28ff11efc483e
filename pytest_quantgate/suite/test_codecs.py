"""The codecs' properties, for every quantized type of the engine under test (``--quant-codecs``).

Uses the fixtures ``quant_codec`` (one codec a test) and ``quant_codec_profile`` (a
:class:`~pytest_quantgate.codecs.runner.CodecProfile`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_quantgate.codecs.golden import GOLDEN_RMS, check_golden
from pytest_quantgate.codecs.properties import PROPERTIES
from pytest_quantgate.codecs.runner import run_property

if TYPE_CHECKING:
    from pytest_quantgate.codecs.codec import Codec
    from pytest_quantgate.codecs.runner import CodecProfile


@pytest.mark.parametrize("promise", PROPERTIES)
def test_codec_property(
    quant_codec: Codec, quant_codec_profile: CodecProfile, promise: str
) -> None:
    """The format keeps the promise on every example that Hypothesis finds."""
    found = PROPERTIES[promise]
    if not found.applies(quant_codec.spec):
        pytest.skip(f"{quant_codec.spec.name} makes no promise of {promise}")
    run_property(found, quant_codec, quant_codec_profile)


def test_codec_golden_rms(quant_codec: Codec) -> None:
    """The RMS error on the fixed normal sample is no higher than the golden figure."""
    if quant_codec.spec.name not in GOLDEN_RMS:
        pytest.skip(f"no golden figure for {quant_codec.spec.name}")
    check_golden(quant_codec)
