"""How a ggml was built: CMake's variables where they were left, the compiler from a library.

Runs in a worker too, on the standard library alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_NATIVE = "GGML_NATIVE"

BUILD_OPTIONS = tuple(
    f"GGML_{name}"
    for name in (
        *("NATIVE", "CPU_ALL_VARIANTS", "BACKEND_DL", "OPENMP", "LLAMAFILE", "CPU_REPACK"),
        *("CPU_KLEIDIAI", "BLAS", "CUDA", "CUDA_FORCE_MMQ", "CUDA_FORCE_CUBLAS"),
        *("CUDA_FA_ALL_QUANTS", "HIP", "METAL", "MUSA", "OPENCL", "RPC", "SYCL", "VULKAN"),
    )
)
"""What changes how ggml computes, besides the instruction sets that it tells itself."""

_PACKAGE_LINE = re.compile(r'^set\((GGML_\w+) "(.*)"\)$', re.MULTILINE)
_CACHE_LINE = re.compile(r"^(GGML_\w+):\w+=(.*)$", re.MULTILINE)
_COMPILER = re.compile(rb"GCC: \([^)\0]*\) [0-9.]+|clang version [0-9.]+")


def read_cmake_package(folder: Path) -> dict[str, str]:
    """Return ggml's variables from the package of CMake in a folder of libraries."""
    return _read(folder / "cmake" / "ggml" / "ggml-config.cmake", _PACKAGE_LINE)


def read_cmake_cache(folder: Path) -> dict[str, str]:
    """Return ggml's variables from the folder in which it was built."""
    return _read(folder / "CMakeCache.txt", _CACHE_LINE)


def _read(path: Path, line: re.Pattern[str]) -> dict[str, str]:
    try:
        return dict(line.findall(path.read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return {}


def compiler_of(library: bytes) -> str:
    """Return the compiler that left its name in a library, "" for none."""
    match = _COMPILER.search(library)
    return "" if match is None else match[0].decode()


def describe_build(variables: Mapping[str, str], compiler: str) -> str:
    """Return the options and the compiler that ggml was built with, "" where neither is known.

    Options that are off are left out, but for that of the machine's own instruction sets.
    """
    parts = [
        f"{name}={variables[name]}"
        for name in BUILD_OPTIONS
        if name in variables and (name == _NATIVE or variables[name] not in {"OFF", ""})
    ]
    return " | ".join([*parts, compiler] if compiler else parts)
