"""The table of formats against what the installed llama.cpp and gguf say."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import llama_cpp
import pytest

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gguf.formats import (
    DEFAULT_FORMATS,
    FILE_TYPES,
    NOT_WRITABLE,
    TENSOR_GROUPS,
    TENSOR_TYPES,
    Format,
    find_format,
    make_recipe,
)

_REMOVED = {4, 5, 6, 33, 34, 35}  # Q4_1_SOME_F16, Q4_2, Q4_3, Q4_0_4_4 and its like


def _engine_file_types() -> dict[str, int]:
    prefixes = ("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_")
    return {
        name.removeprefix(prefix): value
        for name, value in vars(llama_cpp.llama_cpp).items()
        for prefix in prefixes
        if name.startswith(prefix) and value not in _REMOVED
    }


def test_every_file_type_of_the_engine_is_in_the_table_and_back() -> None:
    engine = _engine_file_types()
    # Names that the installed llama-cpp-python does not know yet are checked by their numbers.
    table = {row.name: row.number for row in FILE_TYPES.values()}
    missing = {n: v for n, v in engine.items() if n not in table and n not in NOT_WRITABLE}
    assert not missing
    assert {name: engine[name] for name in table if name in engine} == {
        name: number for name, number in table.items() if name in engine
    }
    assert len(engine) > 30


def test_file_types_that_llama_cpp_python_does_not_name_are_known_to_the_library() -> None:
    """``llama_ftype_name`` speaks through a quantization log; the library's text has the names."""
    engine = _engine_file_types()
    unnamed = [name for name in FILE_TYPES if name not in engine]
    library = next((Path(llama_cpp.__file__).parent / "lib").glob("*llama.*"))
    text = library.read_bytes()
    for name in unnamed:
        assert name.encode() in text, name


def test_numbers_and_names_are_unique() -> None:
    numbers = [row.number for row in FILE_TYPES.values()]
    names = [name for row in FILE_TYPES.values() for name in (row.name, *row.aliases)]
    assert len(set(numbers)) == len(numbers)
    # An alias may be a main type's name, as Q4_K for Q4_K_M, but never another row's.
    assert len(set(names)) == len(names)


def test_tensor_types_have_the_numbers_and_sizes_of_gguf() -> None:
    compared = 0
    for kind in gguf.GGMLQuantizationType:
        row = TENSOR_TYPES[kind.name]
        assert row.number == kind.value
        assert (row.block_elements, row.block_bytes) == gguf.GGML_QUANT_SIZES[kind], kind
        compared += 1
    assert compared >= 30


def test_tensor_types_have_the_sizes_of_the_library() -> None:
    library = next((Path(llama_cpp.__file__).parent / "lib").glob("*ggml-base.*"))
    ggml = ctypes.CDLL(str(library))
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_type_name.restype = ctypes.c_char_p
    for row in TENSOR_TYPES.values():
        assert ggml.ggml_type_name(row.number).decode().upper() == row.name
        assert ggml.ggml_blck_size(row.number) == row.block_elements, row.name
        if row.name != "Q8_1":
            assert ggml.ggml_type_size(row.number) == row.block_bytes, row.name


def test_q8_1_has_the_size_of_its_structure() -> None:
    """Gguf and ggml.h disagree about Q8_1, which no file holds; the library decides."""
    library = next((Path(llama_cpp.__file__).parent / "lib").glob("*ggml-base.*"))
    ggml = ctypes.CDLL(str(library))
    ggml.ggml_type_size.restype = ctypes.c_size_t
    assert ggml.ggml_type_size(9) in {36, TENSOR_TYPES["Q8_1"].block_bytes}


def test_every_row_has_a_tensor_type() -> None:
    for row in FILE_TYPES.values():
        assert row.main_type in TENSOR_TYPES
        assert 1 <= row.nominal_bits_per_weight <= 32


def test_the_default_formats_are_in_the_table() -> None:
    assert len(DEFAULT_FORMATS) == 14
    assert all(find_format(name).name == name for name in DEFAULT_FORMATS)
    assert not any(find_format(name).needs_imatrix for name in DEFAULT_FORMATS)


@pytest.mark.parametrize(
    ("alias", "name"),
    [("MXFP4", "MXFP4_MOE"), ("mxfp4", "MXFP4_MOE"), ("q4_k_m", "Q4_K_M"), ("Q4_K", "Q4_K_M")],
)
def test_aliases(alias: str, name: str) -> None:
    assert find_format(alias).name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Q4_K_X", r"unknown format 'Q4_K_X' \(did you mean Q4_K_"),
        ("NVFP4", r"format 'NVFP4' cannot be made: llama.cpp has a file type for it"),
        ("", r"unknown format ''; valid: F32, F16"),
    ],
)
def test_an_unknown_format_names_the_valid_ones(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        find_format(name)
    assert "\n" not in str(caught.value)


def test_a_recipe_names_groups_of_tensors() -> None:
    recipe = make_recipe("small-experts", "q8_0", {"experts": "mxfp4", "blk.0": "Q6_K"})
    assert recipe.overrides == ((TENSOR_GROUPS["experts"], "MXFP4"), ("blk.0", "Q6_K"))
    assert find_format("small-experts", {"small-experts": recipe}) is recipe
    assert not recipe.is_full_precision


@pytest.mark.parametrize(
    ("name", "base", "tensors", "message"),
    [
        ("Q4_K", "Q8_0", {}, "recipe 'Q4_K' has the name of a file type"),
        ("r", "Q9", {}, "unknown format 'Q9'"),
        (
            "r",
            "Q8_0",
            {"experts": "q8_k"},
            "'q8_k': llama.cpp quantizes no weights to it",
        ),
        ("r", "Q8_0", {"experts": "I8"}, "'I8': llama.cpp quantizes no weights to it"),
        ("r", "Q8_0", {"experts": "Q9"}, "unknown tensor type 'Q9'; valid: F32"),
        ("r", "Q8_0", {"(": "Q4_K"}, "'\\(' is neither one of experts, .* nor a regular"),
        ("r", "F16", {"experts": "Q4_K"}, "llama.cpp ignores tensor overrides on the base F16"),
    ],
)
def test_a_recipe_that_cannot_be_made(
    name: str, base: str, tensors: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_recipe(name, base, tensors)


def test_only_whole_full_precision_is_a_reference() -> None:
    assert Format(name="BF16", file_type=FILE_TYPES["BF16"]).is_full_precision
    assert not find_format("Q8_0").is_full_precision
