"""The codecs' properties, for every quantized type of the engine under test (``--quant-codecs``).

Uses the fixtures ``quant_codec`` (one codec a test), ``quant_codecs`` (all of the engine's),
``quant_kernels`` and ``quant_codec_profile`` (a
:class:`~pytest_quantgate.codecs.runner.CodecProfile`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_quantgate.codecs.adapters import NativeCodec
from pytest_quantgate.codecs.golden import GOLDEN_RMS, LADDERS, check_golden, check_ladder
from pytest_quantgate.codecs.kernels import (
    ACTIVATION_ROWS,
    WEIGHT_KINDS,
    check_matmul,
    check_vec_dot,
)
from pytest_quantgate.codecs.properties import PROPERTIES
from pytest_quantgate.codecs.runner import run_property

if TYPE_CHECKING:
    from pytest_quantgate.codecs.adapters import CodecBackend
    from pytest_quantgate.codecs.codec import Codec
    from pytest_quantgate.codecs.kernels import KernelBackend
    from pytest_quantgate.codecs.runner import CodecProfile


@pytest.mark.parametrize("promise", PROPERTIES)
def test_codec_property(
    quant_codec: Codec, quant_codec_profile: CodecProfile, promise: str
) -> None:
    """The format keeps the promise on every example that Hypothesis finds."""
    property_ = PROPERTIES[promise]
    if not property_.applies(quant_codec.spec):
        pytest.skip(f"{quant_codec.spec.name} makes no promise of {promise}")
    run_property(property_, quant_codec, quant_codec_profile)


def test_codec_golden_rms(quant_codec: Codec) -> None:
    """The RMS error on the fixed normal sample is no higher than the golden figure."""
    if quant_codec.spec.name not in GOLDEN_RMS:
        pytest.skip(f"no golden figure for {quant_codec.spec.name}")
    check_golden(quant_codec)


@pytest.mark.parametrize("ladder", LADDERS, ids=lambda ladder: "-".join(ladder[:: len(ladder) - 1]))
def test_codec_ladder(quant_codecs: CodecBackend, ladder: tuple[str, ...]) -> None:
    """Within a family more bits never raise the RMS error on the fixed normal sample."""
    known = {type_.name for type_ in quant_codecs.types()}
    check_ladder(
        lambda name: NativeCodec(quant_codecs, name), tuple(t for t in ladder if t in known)
    )


@pytest.mark.parametrize("kind", WEIGHT_KINDS)
def test_codec_vec_dot(quant_codec: Codec, quant_kernels: KernelBackend, kind: str) -> None:
    """The CPU's dot product sums what the codec decodes."""
    check_vec_dot(quant_codec, quant_kernels, kind)


@pytest.mark.parametrize("n_activations", ACTIVATION_ROWS)
def test_codec_matmul(quant_codec: Codec, quant_kernels: KernelBackend, n_activations: int) -> None:
    """Each device multiplies what the codec decodes, the CPU also in its repacked layout."""
    for device in quant_kernels.devices():
        for repack in (False, True) if device == "CPU" else (False,):
            taken = check_matmul(
                quant_codec,
                quant_kernels,
                device=device,
                repack=repack,
                n_activations=n_activations,
            )
            if device == "CPU" and not repack:
                assert taken, f"the CPU backend takes no {quant_codec.spec.name}"
