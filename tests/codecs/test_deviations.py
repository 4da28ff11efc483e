"""What llama.cpp does that a reader of the formats would not expect, each with a minimal example.

docs/explanation/codecs.md, "Deviations", lists them. A failure here: upstream
changed, update the docs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.codecs.adapters import GgufCodec
from pytest_quantgate.codecs.bounds import BOUNDS

if TYPE_CHECKING:
    import numpy.typing as npt

    from pytest_quantgate.engines.worker.native import NativeCodecs

    Float32Array = npt.NDArray[np.float32]


def through(codecs: NativeCodecs, name: str, rows: Float32Array) -> Float32Array:
    return codecs.dequantize(name, codecs.quantize(name, rows))


def test_q2_k_turns_a_zero_among_ones_into_minus_one(native_codecs: NativeCodecs) -> None:
    """Its search weighs errors by |x|, so a zero counts for nothing when the scale is fitted."""
    sub_block = np.frombuffer(
        bytes.fromhex(
            "0000000054fe7f3f7918803f810f803f920d803f9d8c7f3ffaf27f3f4f26803f"
            "d2ec7f3faace7f3f2ec37f3f8c0f803fdabc7f3fd61e803fd1da7f3f0021803f"
        ),
        dtype="<f4",
    )
    rows = np.ones((1, 256), dtype=np.float32)
    rows[0, :16] = sub_block
    decoded = through(native_codecs, "Q2_K", rows)
    assert rows[0, 0] == 0
    assert decoded[0, 0] < -0.99
    assert np.isinf(BOUNDS["Q2_K"](rows)).any()  # the bound claims nothing here


def test_q4_k_fits_rounding_noise_of_a_nearly_constant_sub_block(
    native_codecs: NativeCodecs,
) -> None:
    """Ones beside a sub-block of 1 ± 2^-15 come back ten times worse than beside exact ones."""
    steps = [2, 1, 0, -2, -1, -3, -3, -3, -2, 2, 1, 3, 0, 1, 3, 2]
    steps += [1, 0, 0, 3, -2, 2, 1, -3, -1, 3, 0, -3, 2, 2, 2, -2]
    noisy = [-3, -1, 1, 0, 3, 1, 2, 1, 0, -1, 0, -1, -1, 3, 0, -3]
    noisy += [2, 2, 3, 2, 1, -1, -3, 3, -2, -2, -2, -3, -1, 2, 0, -2]
    errors = []
    for values in (steps, noisy):
        rows = np.ones((1, 256), dtype=np.float32)
        rows[0, :32] += np.array(values, dtype=np.float32) * np.float32(2.0**-17)
        errors.append(np.abs(rows - through(native_codecs, "Q4_K", rows))[0, 32:].max())
        assert (errors[-1] <= BOUNDS["Q4_K"](rows)).all()
    assert errors[0] < 0.0004
    assert errors[1] > 0.0079


def test_q3_k_refines_only_sub_blocks_whose_largest_element_is_negative(
    native_codecs: NativeCodecs,
) -> None:
    rows = np.zeros((1, 256), dtype=np.float32)
    rows[0, :3] = 3.5, 1.125, 0.5
    decoded, mirrored = through(native_codecs, "Q3_K", rows), through(native_codecs, "Q3_K", -rows)
    assert not np.array_equal(decoded, -mirrored)
    # the mirrored block was refined: its squared error, weighted by x² as upstream does, is smaller
    plain = (rows**2 * (rows - decoded) ** 2).sum()
    assert (rows**2 * (rows + mirrored) ** 2).sum() < plain


def test_mxfp4_stores_the_byte_for_nan_as_the_exponent_of_tiny_blocks(
    native_codecs: NativeCodecs,
) -> None:
    """A negative float becomes a uint8_t: undefined in C, 255 on x86, NaN to other readers."""
    rows = np.zeros((1, 32), dtype=np.float32)
    rows[0, 0] = 2.0**-126
    data = native_codecs.quantize("MXFP4", rows)
    assert data[0, 0] in {0, 255}  # 0 where the conversion saturates
    assert (native_codecs.dequantize("MXFP4", data) == 0).all()


def test_mxfp4_takes_twice_the_scale_just_below_a_power_of_two(
    native_codecs: NativeCodecs,
) -> None:
    """log2 of the largest float32 below 8 is 3 in float32. gguf's Python code does the same."""
    rows = np.zeros((1, 32), dtype=np.float32)
    rows[0, :2] = np.nextafter(np.float32(8), np.float32(0)), 0.5
    data = native_codecs.quantize("MXFP4", rows)
    assert data[0, 0] == 127 + 1  # D = 2 instead of 1
    assert GgufCodec("MXFP4").quantize(rows)[0, 0] == 127 + 1
    decoded = native_codecs.dequantize("MXFP4", data)
    assert decoded[0, :2].tolist() == [8.0, 0.0]  # ½ is on the grid of D = 1


def test_nvfp4_stores_its_largest_scale_from_248_up(native_codecs: NativeCodecs) -> None:
    rows = np.zeros((1, 64), dtype=np.float32)
    rows[0, [0, 16]] = 6 * 247, 6 * 250
    data = native_codecs.quantize("NVFP4", rows)
    assert data[0, :2].tolist() == [0x77, 0x7E]  # 240 and 448
    # 6 · 448 is too far from 1500: the nearest level is 3 · 448
    assert native_codecs.dequantize("NVFP4", data)[0, [0, 16]].tolist() == [1440.0, 1344.0]


def test_zero_scale_takes_the_sign_of_the_first_zero(native_codecs: NativeCodecs) -> None:
    """Q5_0 of a block of zeros that begins with −0: gguf stores +0, ggml −0."""
    rows = np.zeros((1, 32), dtype=np.float32)
    rows[0, 0] = -0.0
    native, python = native_codecs.quantize("Q5_0", rows), GgufCodec("Q5_0").quantize(rows)
    assert not np.array_equal(native, python)
    assert (native_codecs.dequantize("Q5_0", native) == 0).all()
    assert (native_codecs.dequantize("Q5_0", python) == 0).all()
