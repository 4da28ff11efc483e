"""What an engine says of itself: version, commit, how it was built, its libraries' bytes.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import ctypes
import hashlib
import platform
import sys
from collections.abc import Sequence

from pytest_quantgate.engines.messages import UNKNOWN, Identity
from pytest_quantgate.engines.worker.build import compiler_of, describe_build, read_cmake_package
from pytest_quantgate.engines.worker.devices import device_description, devices
from pytest_quantgate.engines.worker.host import cpu_name, hash_surroundings
from pytest_quantgate.engines.worker.loading import (
    library_folder,
    low,
    package_folder,
    package_version,
)

LIBRARY_NAMES = ("libllama", "llama", "libggml", "ggml")
QUANTIZER_NAMES = ("libllama", "llama", "libggml-base", "ggml-base")


def _hash_libraries(prefixes: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for path in sorted(library_folder().iterdir()):
        stem, _, rest = path.name.partition(".")
        # The versioned names beside `libllama.so` are copies or links of the same file.
        if rest in {"so", "dylib", "dll"} and any(
            stem == name or (name.endswith("ggml") and stem.startswith(f"{name}-"))
            for name in prefixes
        ):
            digest.update(stem.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _tell(name: str) -> str:
    """Return what a function without arguments tells, "" where the library has none."""
    try:
        function = low._lib[name]  # a handle of its own: the types are llama-cpp-python's else
    except AttributeError:
        return ""
    function.restype, function.argtypes = ctypes.c_char_p, []
    return (function() or b"").decode(errors="replace")


def _build() -> str:
    """Describe how this engine was built.

    A wheel puts CMake's package into ``lib`` beside the package, an installation of llama.cpp
    beside its libraries.
    """
    folders = (library_folder(), package_folder().parent / "lib")
    variables = next(filter(None, map(read_cmake_package, folders)), {})
    base = [path for path in library_folder().iterdir() if "ggml-base." in path.name]
    compiler = compiler_of(base[0].read_bytes()) if base else ""
    return describe_build(variables, compiler) or UNKNOWN


def identify() -> Identity:
    """Describe this engine: version, commit, build, instruction sets, its libraries' bytes."""
    low.llama_backend_init()
    commit, listed = _tell("ggml_commit"), devices()
    return Identity(
        kind="llama-cpp-python",
        version=package_version(),
        # Older ones have no version of their own, and are known by the commit.
        llama_cpp_version=_tell("llama_version") or commit,
        commit=commit or UNKNOWN,
        build_options=_build(),
        python_version=platform.python_version(),
        platform=f"{sys.platform}-{platform.machine()}",
        cpu_name=cpu_name(),
        system_info=low.llama_print_system_info().decode().strip(),
        library_sha256=_hash_libraries(LIBRARY_NAMES),
        quantizer_sha256=_hash_libraries(QUANTIZER_NAMES),
        devices=tuple(listed),
        surroundings_sha256=hash_surroundings(
            [f"{name} {device_description(handle)}" for name, handle in listed.items()]
        ),
    )
