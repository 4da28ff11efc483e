"""The codecs in the engine's worker are those of this process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from pytest_quantgate.codecs.names import QUANTIZED_TYPES
from pytest_quantgate.codecs.remote import WorkerCodecs
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.worker.native import TYPE_IDS, NativeCodecs
from pytest_quantgate.errors import CellUnsupported


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerCodecs]:
    """The installed engine's codecs, in a worker."""
    log = tmp_path_factory.mktemp("log") / "worker.log"
    engine = LlamaCppPython(python=None, log=log, stall_s=60)
    yield WorkerCodecs(engine)
    engine.close()


def test_the_fixture_knows_every_type() -> None:
    assert tuple(TYPE_IDS) == QUANTIZED_TYPES


def test_the_worker_gives_the_same_bytes(remote: WorkerCodecs, native_codecs: NativeCodecs) -> None:
    assert remote.types() == native_codecs.types()
    rows = np.random.default_rng(4).normal(size=(3, 512)).astype(np.float32)
    weights = np.random.default_rng(5).uniform(0.1, 1, 512).astype(np.float32)
    for name in ("Q4_0", "Q4_K", "MXFP4", "IQ2_XXS"):
        data = native_codecs.quantize(name, rows, weights)
        np.testing.assert_array_equal(remote.quantize(name, rows, weights), data)
        np.testing.assert_array_equal(
            remote.dequantize(name, data), native_codecs.dequantize(name, data)
        )


def test_wrong_values_are_refused_there_too(remote: WorkerCodecs) -> None:
    with pytest.raises(ValueError, match="multiple of 256"):
        remote.quantize("Q4_K", np.zeros((1, 100), dtype=np.float32))
    with pytest.raises(ValueError, match="importance matrix"):
        remote.quantize("IQ2_XXS", np.zeros((1, 256), dtype=np.float32))
    with pytest.raises(CellUnsupported, match="no quantized type Q9_9"):
        remote.type("Q9_9")
