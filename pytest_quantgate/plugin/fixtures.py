"""The public fixtures. A test that asks for one is parametrized over the active profile."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_quantgate.codecs.names import QUANTIZED_TYPES
from pytest_quantgate.plugin.state import STATE

if TYPE_CHECKING:
    from pytest_quantgate.codecs.adapters import CodecBackend
    from pytest_quantgate.codecs.codec import Codec
    from pytest_quantgate.codecs.kernels import KernelBackend
    from pytest_quantgate.codecs.runner import CodecProfile
    from pytest_quantgate.gguf.formats import Format
    from pytest_quantgate.matrix.cells import Cell
    from pytest_quantgate.metrics.measured_cell import MeasuredCell
    from pytest_quantgate.plugin.parametrize import Point
    from pytest_quantgate.results.baseline import Baseline


@pytest.fixture(scope="session")
def _quant_point(request: pytest.FixtureRequest) -> Point | None:
    point: Point | None = getattr(request, "param", None)
    return point


def _cell(point: Point | None, fixture: str) -> Cell:
    """Return the test's cell; a fixture that is asked for while the test runs has none."""
    if point is None or not (point.is_whole_cell or fixture in point.fixtures):
        pytest.fail(
            f"{fixture} is no argument of the test, which so runs over none of its values; ask"
            f" for {fixture} by argument or usefixtures, not by getfixturevalue",
            pytrace=False,
        )
    return point.cell


@pytest.fixture(scope="session")
def quant_cell(_quant_point: Point | None, pytestconfig: pytest.Config) -> MeasuredCell:
    """One cell of the profile; its figures are measured when they are first read."""
    from pytest_quantgate.metrics.measured_cell import MeasuredCell

    state, cell = pytestconfig.stash[STATE], _cell(_quant_point, "quant_cell")
    return MeasuredCell(state.open_session(), cell, partial(state.measure, cell))


@pytest.fixture(scope="session")
def quant_baseline(_quant_point: Point | None, pytestconfig: pytest.Config) -> Baseline | None:
    """The cell's stored baseline, None if there is none."""
    cell = _cell(_quant_point, "quant_baseline")
    return pytestconfig.stash[STATE].open_session().baseline(cell)


@pytest.fixture(scope="session")
def quant_codecs(pytestconfig: pytest.Config) -> CodecBackend:
    """All codecs of the engine under test, by the name of their type."""
    from pytest_quantgate.codecs.remote import WorkerCodecs
    from pytest_quantgate.errors import CellUnsupported

    session = pytestconfig.stash[STATE].open_session()
    codecs = WorkerCodecs(session.engines[session.settings.profile.engine])
    try:
        codecs.types()
    except CellUnsupported as error:
        # Without one type of many its tests are skipped; without any, nothing would be tested.
        pytest.fail(str(error), pytrace=False)
    return codecs


@pytest.fixture(scope="session")
def quant_kernels(pytestconfig: pytest.Config) -> KernelBackend:
    """The products of the engine under test, on each of its devices."""
    from pytest_quantgate.codecs.remote import WorkerCodecs

    session = pytestconfig.stash[STATE].open_session()
    return WorkerCodecs(session.engines[session.settings.profile.engine])


@pytest.fixture(scope="session", params=QUANTIZED_TYPES)
def quant_codec(request: pytest.FixtureRequest, quant_codecs: CodecBackend) -> Codec:
    """A quantized type's codec in the engine under test, one type a test."""
    from pytest_quantgate.codecs.adapters import NativeCodec
    from pytest_quantgate.errors import CellUnsupported

    try:
        return NativeCodec(quant_codecs, request.param)
    except CellUnsupported as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def quant_codec_profile(pytestconfig: pytest.Config) -> CodecProfile:
    """How many examples a codec's property gets: ``--quant-codec-profile``."""
    from pytest_quantgate.codecs.runner import PROFILES

    return PROFILES[pytestconfig.stash[STATE].options.codec_profile]


@pytest.fixture(scope="session")
def quant_model(_quant_point: Point | None) -> str:
    """The name of a model of the profile."""
    return _cell(_quant_point, "quant_model").model


@pytest.fixture(scope="session")
def quant_format(_quant_point: Point | None) -> Format:
    """A format of the profile."""
    return _cell(_quant_point, "quant_format").format


@pytest.fixture(scope="session")
def quant_device(_quant_point: Point | None) -> str:
    """The name of a device of the profile."""
    return _cell(_quant_point, "quant_device").device


@pytest.fixture(scope="session")
def quant_imatrix(_quant_point: Point | None) -> str | None:
    """The name of an importance matrix of the profile, None for none."""
    return _cell(_quant_point, "quant_imatrix").imatrix


@pytest.fixture(scope="session")
def quant_engine(_quant_point: Point | None) -> str:
    """The name of the profile's engine."""
    return _cell(_quant_point, "quant_engine").engine


@pytest.fixture(scope="session")
def quant_text(_quant_point: Point | None) -> str:
    """The name of a text of the profile."""
    return _cell(_quant_point, "quant_text").text
