"""Whether an engine's interpreter can carry a worker, asked before one is started.

A worker talks over its standard streams from its first byte on, so an interpreter that is too old
for it, prints of its own accord or never answers could otherwise not be told from one another.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

import psutil

from pytest_quantgate.engines.isolation import isolated_environment, last_folders
from pytest_quantgate.errors import CellTimeout, CellUnavailable

OLDEST_PYTHON = (3, 11)
"""What the worker's sources are written for."""

NEEDED = ("llama_cpp", "numpy")

_LOOK_EVERY_S = 0.05
_MOST_BYTES = 1 << 16
_MARK = "quantgate: "
# Any Python can read this, also one that is much too old; nothing is imported but the finders.
_PROBE = f"""
import sys
if sys.path[0] == "":
    sys.path.pop(0)
sys.path.extend(sys.argv[1:])
missing = []
if sys.version_info >= (3, 4):
    from importlib.util import find_spec
    missing = [name for name in {NEEDED!r} if find_spec(name) is None]
found = ".".join(str(part) for part in sys.version_info[:3])
sys.stdout.write("{_MARK}" + found + " " + ",".join(missing) + "\\n")
"""


def check_interpreter(python: str, *, log: Path, timeout_s: float) -> None:
    """Start an interpreter once and see that it answers, is new enough and has what is needed.

    Args:
        python: the interpreter.
        log: takes what it prints on standard error.
        timeout_s: seconds that it has for it.

    Raises:
        CellUnavailable: it cannot carry a worker; one line says why, and what to do.
        CellTimeout: it did not end in time.

    """
    with log.open("ab") as errors, tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [python, "-u", "-c", _PROBE, *last_folders()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=isolated_environment(),
            )
        except OSError as error:
            raise CellUnavailable(
                f"the interpreter {python!r} cannot be started ({error.strerror or error});"
                " give an engine's python the path of one, as /venvs/new/bin/python"
            ) from error
        try:
            code = _wait(process, output, timeout_s)
        finally:
            _end(process)
        printed = _read(output)
    if code is None:
        raise CellTimeout(
            f"the interpreter {python!r} did not answer within {timeout_s:g} s; it was ended."
            f" Try it: {python} --version"
        )
    before, mark, answer = printed.rpartition(_MARK)
    if not mark:
        told = f", printed {_shorten(printed)!r}" if printed.strip() else ""
        raise CellUnavailable(
            f"the interpreter {python!r} ran no Python (exit status {code}{told})."
            f" Try it: {python} --version"
        )
    version, _, missing = answer.strip().partition(" ")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_PYTHON:
        oldest = ".".join(str(part) for part in OLDEST_PYTHON)
        raise CellUnavailable(
            f"the interpreter {python!r} is Python {version}; an engine needs {oldest} or later,"
            " so install its llama-cpp-python into an environment of a newer Python"
        )
    if missing:
        packages = missing.replace("llama_cpp", "llama-cpp-python").replace(",", " ")
        raise CellUnavailable(
            f"the interpreter {python!r} has no {missing.replace(',', ' and no ')}; type:"
            f" {python} -m pip install {packages}"
        )
    if before:
        raise CellUnavailable(
            f"the interpreter {python!r} prints {_shorten(before)!r} on its standard output when"
            " it starts, where the worker's messages go; find what does that"
            " (sitecustomize.py, a .pth file, a wrapper) and silence it"
        )


def _wait(process: subprocess.Popen[bytes], output: IO[bytes], timeout_s: float) -> int | None:
    """Return the exit status, None after the time; what prints without end is ended before."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_LOOK_EVERY_S)
        if os.fstat(output.fileno()).st_size > _MOST_BYTES:
            _end(process)
    return None


def _read(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read(_MOST_BYTES).decode(errors="replace")


def _shorten(text: str) -> str:
    line = text.strip().splitlines()[0]
    return line if len(line) <= 60 else f"{line[:60]}…"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what still runs: a wrapper's own children too."""
    if process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        process.kill()
    process.wait()
