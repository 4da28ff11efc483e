"""How an engine was built, and that its libraries' bytes alone tell two builds apart."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import Identity
from pytest_quantgate.engines.worker.build import (
    compiler_of,
    describe_build,
    read_cmake_cache,
    read_cmake_package,
)
from tests.engines.worker.interpreters import copy_engine, make_interpreter


def test_options_are_read_from_either_of_cmakes_files(tmp_path: Path) -> None:
    package = tmp_path / "cmake" / "ggml"
    package.mkdir(parents=True)
    (package / "ggml-config.cmake").write_text(
        'set(GGML_NATIVE "OFF")\nset(GGML_OPENMP "ON")\nset(OTHER "x")\nset_and_check(A "b")\n'
    )
    (tmp_path / "CMakeCache.txt").write_text(
        "//Help\nGGML_NATIVE:BOOL=ON\nGGML_CUDA:BOOL=OFF\nCMAKE_X:STRING=GGML_NATIVE:BOOL=1\n"
    )
    assert read_cmake_package(tmp_path) == {"GGML_NATIVE": "OFF", "GGML_OPENMP": "ON"}
    assert read_cmake_cache(tmp_path) == {"GGML_NATIVE": "ON", "GGML_CUDA": "OFF"}
    assert read_cmake_package(tmp_path / "none") == read_cmake_cache(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("library", "compiler"),
    [
        (b"\x00GCC: (Debian 12.2.0-14) 12.2.0\x00", "GCC: (Debian 12.2.0-14) 12.2.0"),
        (b"Ubuntu clang version 18.1.3 (1)\x00", "clang version 18.1.3"),
        (b"GCC: no version", ""),
    ],
)
def test_the_compiler_leaves_its_name(library: bytes, compiler: str) -> None:
    assert compiler_of(library) == compiler


def test_a_build_is_told_as_far_as_it_is_known() -> None:
    variables = {"GGML_OPENMP": "ON", "GGML_NATIVE": "OFF", "GGML_CCACHE": "ON", "GGML_CUDA": "OFF"}
    assert describe_build(variables, "GCC") == "GGML_NATIVE=OFF | GGML_OPENMP=ON | GCC"
    assert describe_build({}, "") == ""


def _identity(folder: Path) -> Identity:
    engine = LlamaCppPython(
        python=str(make_interpreter(folder)), log=folder / "log.txt", stall_s=60
    )
    try:
        return engine.identity()
    finally:
        engine.close()


@pytest.mark.skipif(sys.platform == "win32", reason="interpreters here are scripts")
def test_one_build_in_two_places_is_one_engine_and_another_byte_makes_another(
    tmp_path: Path,
) -> None:
    found = []
    for name in ("one", "two", "other"):
        library = copy_engine(tmp_path / name) / "lib" / "libllama.so"
        shutil.copyfile(library.resolve(), library.with_suffix(".copy"))
        library.unlink()
        library.with_suffix(".copy").rename(library)
        if name == "other":
            with library.open("ab") as stream:
                stream.write(b"\0")
        found.append(_identity(tmp_path / name))
    one, two, other = found
    assert one == two
    assert other.library_sha256 != one.library_sha256
    assert other.quantizer_sha256 != one.quantizer_sha256
    assert one.commit
    assert one.build_options
