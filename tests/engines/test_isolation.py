"""Files that lie around take no module's place in a child process, wherever they lie."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import llama_cpp
import pytest

from pytest_quantgate.engines.interpreter import check_interpreter
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.programs.process import run_program
from tests.engines.worker.interpreters import make_interpreter

SHADOWS = ("types.py", "random.py", "llama_cpp/__init__.py", "numpy/__init__.py", "os.py")


@pytest.fixture(params=["working folder", "PYTHONPATH", "relative PYTHONPATH"])
def shadows(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder of modules that fail, where a child must not find them first."""
    folder = tmp_path / "started here"
    for name in SHADOWS:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"raise SystemExit('the wrong {name}')\n")
    if request.param == "working folder":
        monkeypatch.chdir(folder)
        monkeypatch.setenv("PYTHONPATH", os.pathsep)  # an empty entry is the working folder
    elif request.param == "PYTHONPATH":
        monkeypatch.setenv("PYTHONPATH", str(folder))
    else:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PYTHONPATH", "started here")
    return folder


@pytest.mark.usefixtures("shadows")
@pytest.mark.parametrize("is_other", [False, True], ids=["this interpreter", "another"])
def test_a_worker_has_its_own_modules(tmp_path: Path, is_other: bool) -> None:
    python = str(make_interpreter(tmp_path)) if is_other else None
    engine = LlamaCppPython(python=python, log=tmp_path / "worker.log", stall_s=60)
    try:
        assert engine.identity().version == llama_cpp.__version__
    finally:
        engine.close()


@pytest.mark.usefixtures("shadows")
def test_an_interpreter_is_checked_with_its_own_modules(tmp_path: Path) -> None:
    check_interpreter(sys.executable, log=tmp_path / "x.log", timeout_s=60)


@pytest.mark.usefixtures("shadows")
@pytest.mark.skipif(os.name != "posix", reason="runs a program of POSIX")
def test_a_program_is_launched_with_its_own_modules(tmp_path: Path) -> None:
    lines: list[str] = []
    code = run_program(
        Path("/bin/sh"),
        ["-c", "echo fine"],
        log=tmp_path / "x.log",
        stall_s=60,
        on_line=lines.append,
    )
    assert (code, lines) == (0, ["fine"])


def test_what_only_pythonpath_has_is_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a cluster whose modules set it."""
    interpreter = make_interpreter(tmp_path)
    python = tmp_path / "bare"
    python.write_text(f'#!/bin/sh\nexec "{sys.base_prefix}/bin/python3" -s "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(interpreter.parent / "site"))
    engine = LlamaCppPython(python=str(python), log=tmp_path / "worker.log", stall_s=60)
    try:
        assert engine.identity().version == llama_cpp.__version__
    finally:
        engine.close()
