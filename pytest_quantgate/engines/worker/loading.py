"""Loads this interpreter's llama-cpp-python, or says in one line why it cannot be used.

The one place that imports llama_cpp; the others take :data:`low` from here. It is imported before
numpy: with a CUDA build by GCC 13 under Python 3.12, loading a vocabulary died with SIGSEGV where
numpy 2.5 had been imported first, and did not the other way round.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytest_quantgate.engines.worker.errors import EngineUnusable

OLDEST = "0.3.7"
"""The first llama-cpp-python that offers all of :data:`NEEDED`."""

NEEDED = (
    "llama_backend_init",
    "llama_batch_free",
    "llama_batch_init",
    "llama_context_default_params",
    "llama_decode",
    "llama_free",
    "llama_get_logits",
    "llama_init_from_model",
    "llama_log_set",
    "llama_max_devices",
    "llama_model_default_params",
    "llama_model_free",
    "llama_model_get_vocab",
    "llama_model_load_from_file",
    "llama_model_quantize",
    "llama_model_quantize_default_params",
    "llama_print_system_info",
    "llama_synchronize",
    "llama_token_to_piece",
    "llama_tokenize",
    "llama_vocab_bos",
    "llama_vocab_get_add_bos",
    "llama_vocab_n_tokens",
)
"""What a measurement calls, whatever the release."""

_LIBRARY_PATH = "LLAMA_CPP_LIB_PATH"

# e_machine of elf.h
_MACHINES = {
    3: "x86 of 32 bits",
    21: "PowerPC",
    22: "S390",
    40: "ARM of 32 bits",
    62: "x86-64",
    183: "AArch64",
    243: "RISC-V",
    258: "LoongArch",
}


def package_version() -> str:
    """Return llama-cpp-python's version, read from its source: an import may fail."""
    text = (package_folder() / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r"""^__version__ = ["'](.+)["']""", text, re.MULTILINE)
    return match[1] if match else "of unknown version"


def package_folder() -> Path:
    """Return the folder of the package llama_cpp, which is not imported for that.

    Raises:
        EngineUnusable: there is none.

    """
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise EngineUnusable(
            f"{sys.executable} has no llama_cpp; type:"
            f" {sys.executable} -m pip install llama-cpp-python numpy"
        )
    return Path(spec.origin).parent


def library_folder() -> Path:
    """Return the folder that holds libllama and the ggml libraries, as it was loaded."""
    return Path(low._lib._name).parent


def elf_machine(path: Path) -> str | None:
    """Return what an ELF file is built for, None for another kind of file."""
    try:
        with path.open("rb") as stream:
            head = stream.read(20)
    except OSError:
        return None
    if len(head) < 20 or not head.startswith(b"\x7fELF"):
        return None
    number = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    return _MACHINES.get(number, f"machine {number}")


def _load() -> Any:
    given = os.environ.get(_LIBRARY_PATH)
    folder = Path(given) if given else package_folder() / "lib"
    try:
        loaded = importlib.import_module("llama_cpp.llama_cpp")
    except ImportError as error:
        raise EngineUnusable(
            f"llama-cpp-python {package_version()} of {sys.executable} cannot be imported"
            f" ({error})",
            command=_install(),
        ) from error
    except Exception as error:  # it raises RuntimeError, OSError or AttributeError, by release
        raise _unusable(folder, error) from error
    missing = [name for name in NEEDED if not hasattr(loaded, name)]
    if missing:
        raise EngineUnusable(
            f"{sys.executable} has llama-cpp-python {package_version()}, which is too old: it has"
            f" no {missing[0]}; the oldest that can be measured is {OLDEST}",
            command=f"{sys.executable} -m pip install 'llama-cpp-python>={OLDEST}'",
        )
    return loaded


def _unusable(folder: Path, error: Exception) -> EngineUnusable:
    """Return why the libraries cannot be loaded, and what to do."""
    own = elf_machine(Path(sys.executable))
    for path in sorted(folder.glob("lib*.so")) if own is not None else ():
        other = elf_machine(path)
        if other not in {None, own}:
            return EngineUnusable(
                f"{path} is built for {other}, and {sys.executable} for {own}; install a"
                " llama-cpp-python for this machine",
                command=_install(),
            )
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
    problem = (
        f"the libraries in {folder} cannot be used by llama-cpp-python {package_version()} of"
        f" {sys.executable} ({reason})"
    )
    if os.environ.get(_LIBRARY_PATH):
        return EngineUnusable(
            f"{problem}; unset {_LIBRARY_PATH}, or let it name the libraries of that version"
        )
    return EngineUnusable(problem, command=_install())


def _install() -> str:
    return f"{sys.executable} -m pip install --force-reinstall --no-cache-dir llama-cpp-python"


low: Any = _load()
"""llama-cpp-python's low-level interface."""
