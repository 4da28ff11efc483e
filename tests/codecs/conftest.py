"""Codecs in this process; the plugin's ``quant_codec`` runs them in a worker."""

from __future__ import annotations

import pytest

from pytest_quantgate.codecs.adapters import NativeCodec
from pytest_quantgate.codecs.runner import PROFILES, CodecProfile
from pytest_quantgate.engines.worker.native import TYPE_IDS, NativeCodecs
from pytest_quantgate.engines.worker.native_kernels import NativeKernels


@pytest.fixture(scope="session")
def native_codecs() -> NativeCodecs:
    """Load the installed engine's codecs."""
    return NativeCodecs()


@pytest.fixture(scope="session")
def quant_codecs(native_codecs: NativeCodecs) -> NativeCodecs:
    """All codecs of the engine."""
    return native_codecs


@pytest.fixture(scope="session")
def quant_kernels() -> NativeKernels:
    """The engine's products."""
    return NativeKernels()


@pytest.fixture(params=list(TYPE_IDS))
def quant_codec(request: pytest.FixtureRequest, native_codecs: NativeCodecs) -> NativeCodec:
    """Each quantized type of the engine."""
    return NativeCodec(native_codecs, request.param)


@pytest.fixture
def quant_codec_profile() -> CodecProfile:
    """How many examples the suite draws."""
    return PROFILES["quick"]
