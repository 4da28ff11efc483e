"""Interpreters to test with: this one, with other packages, habits or faults."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable
from pathlib import Path

import llama_cpp
import numpy as np

from pytest_quantgate.engines.worker.loading import elf_machine

PACKAGES = Path(np.__file__).parent.parent
ENGINE = ("llama_cpp", "diskcache", "jinja2", "markupsafe", "typing_extensions.py")
NUMPY = ("numpy", "numpy.libs")


def make_interpreter(folder: Path, packages: Iterable[str] = (*ENGINE, *NUMPY)) -> Path:
    """Return an interpreter that finds some packages of this one, and ``folder / "site"``."""
    site = folder / "site"
    site.mkdir(parents=True, exist_ok=True)
    for name in packages:
        source = Path(llama_cpp.__file__).parent if name == "llama_cpp" else PACKAGES / name
        if source.exists() and not (site / name).exists():
            (site / name).symlink_to(source)
    return write_script(folder, f'PYTHONPATH="{site}" exec "{sys.base_prefix}/bin/python3" -s "$@"')


def write_script(folder: Path, text: str) -> Path:
    """Return a shell script that can be executed."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def add_module(folder: Path, name: str, text: str) -> None:
    """Put a module beside an interpreter's packages; ``sitecustomize`` runs when it starts."""
    site = folder / "site"
    site.mkdir(parents=True, exist_ok=True)
    (site / f"{name}.py").write_text(text)


def copy_engine(folder: Path) -> Path:
    """Give an interpreter a llama_cpp of its own, with links to the files of this one's.

    Returns:
        Its folder; put others in the place of its files.

    """
    real, own = Path(llama_cpp.__file__).parent, folder / "site" / "llama_cpp"
    (own / "lib").mkdir(parents=True)
    for path in [*real.glob("*.py"), *real.glob("lib/lib*")]:
        (own / path.relative_to(real)).symlink_to(path)
    return own


def put_foreign_library(folder: Path) -> tuple[Path, str]:
    """Give an interpreter a libllama for another kind of machine: the header of one.

    Returns:
        The library, and what it is built for.

    """
    own = elf_machine(Path(sys.executable))
    number, name = (183, "AArch64") if own != "AArch64" else (62, "x86-64")
    library = copy_engine(folder) / "lib" / "libllama.so"
    library.unlink()
    ident = b"\x7fELF" + bytes([2, 1, 1, 0]) + bytes(8)
    rest = struct.pack("<HHIQQQIHHHHHH", 3, number, 1, 0, 64, 0, 0, 64, 56, 0, 64, 0, 0)
    library.write_bytes(ident + rest)
    return library, name
