"""The faults that the benchmark plants are what it says, and the gate catches them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import planted_faults as plant
import pytest
from fault_list import all_faults, flip

from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import Quantize
from pytest_quantgate.errors import ModelFileError
from pytest_quantgate.gguf.digests import digest_tensors
from pytest_quantgate.gguf.formats import FILE_TYPES
from pytest_quantgate.gguf.reader import read_gguf

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DOWN = "blk.0.ffn_down.weight"


@pytest.fixture(scope="module")
def quantized(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Path]]:
    """The tiny model in formats whose blocks keep their scale in different places."""
    folder = tmp_path_factory.mktemp("quantized")
    engine = LlamaCppPython(python=None, log=folder / "log", stall_s=60)
    files = {}
    for name in ("Q8_0", "Q4_K_S", "Q6_K"):
        files[name] = folder / f"{name}.gguf"
        engine.ask(
            Quantize(
                source=str(tiny_model),
                destination=str(files[name]),
                file_type=FILE_TYPES[name].number,
                overrides=(),
                allow_requantize=False,
                n_threads=1,
            )
        )
    yield files
    engine.close()


@pytest.fixture
def clean(quantized: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copyfile(quantized["Q4_K_S"], tmp_path / "clean.gguf"))


def changed(before: Path, after: Path) -> list[str]:
    """Return the tensors whose bytes differ."""
    pairs = zip(digest_tensors(read_gguf(before)), digest_tensors(read_gguf(after)), strict=True)
    return [old.name for old, new in pairs if old != new]


def weights(path: Path, name: str) -> np.ndarray:
    """Return a tensor's weights, float32 of shape (blocks, weights a block)."""
    tensor = next(item for item in gguf.GGUFReader(path).tensors if item.name == name)
    values = np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type))
    return values.reshape(-1, gguf.GGML_QUANT_SIZES[tensor.tensor_type][0])


@pytest.mark.parametrize("name", ["Q8_0", "Q6_K"])
def test_a_scale_moves_the_weights_of_its_block_and_no_others(
    quantized: dict[str, Path], tmp_path: Path, name: str
) -> None:
    path = Path(shutil.copyfile(quantized[name], tmp_path / "m.gguf"))
    block = plant.largest_block(path, DOWN)
    plant.multiply_scales(path, DOWN, 1.05, block)
    assert changed(quantized[name], path) == [DOWN]
    before, after = weights(quantized[name], DOWN), weights(path, DOWN)
    np.testing.assert_allclose(after[block], 1.05 * before[block], rtol=1e-3)
    others = np.arange(len(before)) != block
    np.testing.assert_array_equal(after[others], before[others])


def test_all_scales_of_all_tensors_of_a_kind(quantized: dict[str, Path], clean: Path) -> None:
    plant.multiply_scales(clean, ".ffn_down.weight", 1.01)
    assert changed(quantized["Q4_K_S"], clean) == [DOWN, DOWN.replace("0", "1")]


def test_a_nan_scale_makes_weights_nan(quantized: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copyfile(quantized["Q8_0"], tmp_path / "m.gguf"))
    plant.multiply_scales(path, DOWN, float("nan"), 2)
    assert np.isnan(weights(path, DOWN)).any(axis=1).nonzero()[0].tolist() == [2]


@pytest.mark.parametrize("bits", [1, 17])
def test_as_many_bits_are_flipped_as_were_asked_for(
    quantized: dict[str, Path], clean: Path, bits: int
) -> None:
    flip(clean, ".weight", bits)
    before = np.frombuffer(quantized["Q4_K_S"].read_bytes(), dtype=np.uint8)
    after = np.frombuffer(clean.read_bytes(), dtype=np.uint8)
    assert int(np.unpackbits(before ^ after).sum()) == bits
    names = changed(quantized["Q4_K_S"], clean)
    assert 1 <= len(names) <= bits
    assert not any("norm" in name for name in names)


def test_swapped_layers_are_each_others(clean: Path) -> None:
    before = {t.name: t for t in digest_tensors(read_gguf(clean))}
    count = plant.swap_layers(clean, 0, 1)
    after = {t.name: t for t in digest_tensors(read_gguf(clean))}
    swapped = [n for n in before if n.startswith("blk.0.") and before[n].type == after[n].type]
    assert count == len(swapped) > 5
    for name in swapped:
        assert after[name].sha256 == before[name.replace("blk.0.", "blk.1.")].sha256


def test_a_field_is_overwritten_in_place(quantized: dict[str, Path], clean: Path) -> None:
    plant.set_field(clean, "llama.attention.layer_norm_rms_epsilon", 0.25)
    plant.set_field(clean, "tokenizer.ggml.pre", "mpt-7")
    settings = read_gguf(clean).settings()
    assert settings["llama.attention.layer_norm_rms_epsilon"] == "0.25"
    assert settings["tokenizer.ggml.pre"] == "mpt-7"
    assert changed(quantized["Q4_K_S"], clean) == []
    with pytest.raises(ValueError, match="has 5 bytes"):
        plant.set_field(clean, "tokenizer.ggml.pre", "falcon")
    with pytest.raises(ValueError, match="no field"):
        plant.set_field(clean, "no.such", 1.0)


def test_a_file_with_zeros_appended_is_the_same_model(
    quantized: dict[str, Path], clean: Path
) -> None:
    plant.append_zeros(clean)
    assert changed(quantized["Q4_K_S"], clean) == []
    assert clean.read_bytes() != quantized["Q4_K_S"].read_bytes()


def test_a_truncated_file_is_refused(clean: Path) -> None:
    plant.truncate(clean, 0.9)
    with pytest.raises(ModelFileError, match="is truncated"):
        read_gguf(clean)


def test_a_fault_is_caught_only_with_its_cause() -> None:
    faults = {fault.name: fault for fault in all_faults(lambda _path, _pattern: None)}
    rope, bit = faults["rope-base"], faults["bit"]
    right = "cause: the file's metadata (llama.rope.freq_base 100000.0 → 10000.0)"
    assert rope.is_caught("REGRESSED", right)
    assert not rope.is_caught("REGRESSED", "cause: runtime kernels")
    assert not rope.is_caught("PASS", right)
    assert bit.is_caught("PASS", "PPL +0.00 %; 12 of 4,080 tokens changed")
    assert not bit.is_caught("PASS", "PPL identical")
    assert not bit.is_caught("CRASHED", "12 of 4,080 tokens changed")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--same", "40"]], ids=["faults", "same build"])
def test_every_fault_is_caught_and_the_same_build_never_blamed(arguments: list[str]) -> None:
    """SmolLM2's Q4_K_M with each fault; the embedded models against themselves."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gate_power.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
