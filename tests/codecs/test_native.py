"""What would abort the process is refused; the types are the engine's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pytest_quantgate.engines.worker.native import TYPE_IDS, load_library

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_quantgate.engines.worker.native import NativeCodecs


def test_types_are_those_of_the_engine(native_codecs: NativeCodecs) -> None:
    found = {kind.name: kind for kind in native_codecs.types()}
    assert found.keys() == TYPE_IDS.keys()
    assert (found["MXFP4"].block_elements, found["MXFP4"].block_bytes) == (32, 17)
    assert (found["Q4_K"].block_elements, found["Q4_K"].block_bytes) == (256, 144)
    assert {name for name, kind in found.items() if kind.needs_imatrix} == {
        "IQ2_XXS",
        "IQ2_XS",
        "IQ1_S",
    }


@pytest.mark.parametrize("name", ["Q8_1", "Q8_K", "F16", "nonsense"])
def test_type_that_ggml_would_abort_on_is_refused(name: str, native_codecs: NativeCodecs) -> None:
    with pytest.raises(ValueError, match=f"no quantized type '{name}'; it has Q4_0, "):
        native_codecs.quantize(name, np.zeros((1, 256), dtype=np.float32))


def test_ragged_row_is_refused(native_codecs: NativeCodecs) -> None:
    with pytest.raises(ValueError, match="multiple of 256 values, not an array of shape"):
        native_codecs.quantize("Q4_K", np.zeros((1, 320), dtype=np.float32))


def test_missing_matrix_is_refused(native_codecs: NativeCodecs) -> None:
    with pytest.raises(ValueError, match="IQ2_XXS can't be quantized without an importance matrix"):
        native_codecs.quantize("IQ2_XXS", np.zeros((1, 256), dtype=np.float32))


def test_matrix_of_the_wrong_length_is_refused(native_codecs: NativeCodecs) -> None:
    with pytest.raises(ValueError, match=r"shape \(32,\), valid is \(256,\)"):
        native_codecs.quantize(
            "Q4_K", np.zeros((1, 256), dtype=np.float32), np.ones(32, dtype=np.float32)
        )


def test_ragged_bytes_are_refused(native_codecs: NativeCodecs) -> None:
    with pytest.raises(ValueError, match="blocks of 144 bytes"):
        native_codecs.dequantize("Q4_K", np.zeros((1, 100), dtype=np.uint8))


def test_empty_array_gives_an_empty_array(native_codecs: NativeCodecs) -> None:
    data = native_codecs.quantize("Q8_0", np.zeros((0, 64), dtype=np.float32))
    assert data.shape == (0, 68)
    assert native_codecs.dequantize("Q8_0", data).shape == (0, 64)


def test_folder_without_the_library_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has none of"):
        load_library(tmp_path, "ggml-base")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e20])
@pytest.mark.parametrize("name", ["IQ2_XS", "IQ3_S"])
def test_value_that_a_grid_search_would_abort_on_is_refused(
    name: str, value: float, native_codecs: NativeCodecs
) -> None:
    rows = np.full((1, 256), value, dtype=np.float32)
    with pytest.raises(ValueError, match=f"{name} aborts the process on values"):
        native_codecs.quantize(name, rows, np.ones(256, dtype=np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_matrix_of_invalid_weights_is_refused(value: float, native_codecs: NativeCodecs) -> None:
    matrix = np.full(256, value, dtype=np.float32)
    with pytest.raises(ValueError, match="finite numbers from 0 up"):
        native_codecs.quantize("Q4_K", np.zeros((1, 256), dtype=np.float32), matrix)
