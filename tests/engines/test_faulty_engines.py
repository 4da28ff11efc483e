"""An engine with a fault gives the cell its verdict, in time, and the others stay complete."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.gguf.formats import find_format
from tests.conftest import Project
from tests.engines.faulty_interpreter import make_faulty_interpreter
from tests.engines.worker.interpreters import make_interpreter, put_foreign_library, write_script

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="interpreters here are scripts")

STALL_S = 4


def run(project: Project, python: Path, formats: tuple[str, ...]) -> tuple[dict[str, Any], float]:
    """Measure an embedded model with an interpreter; return its cells by format, and seconds."""
    project.configure(
        formats=formats,
        profile='models = ["olmoe-mini"]\nengine = "other"\nchunks = 2',
        tables=f"[tool.quantgate.engines.other]\npython = {json.dumps(str(python))}",
        top=f"stall_s = {STALL_S}",
    )
    started = time.monotonic()
    result = project.matrix("--quant-report=r.json")
    seconds_s = time.monotonic() - started
    result.stdout.no_fnmatch_line("*Traceback*")
    cells = json.loads((project.root / "r.json").read_bytes())["cells"]
    return {cell["format"]: cell for cell in cells}, seconds_s


def number(format_name: str) -> int:
    return find_format(format_name, {}).file_type.number


@pytest.mark.slow
def test_each_fault_is_one_cells_verdict(own_cache: Project, tmp_path: Path) -> None:
    """The engine aborts, dies, hangs or prints garbage where the file types say."""
    faults = {
        ("quantize", number("Q4_0")): "abort",
        ("decode", number("Q5_0")): "hang",
        ("load", number("Q4_K_M")): "segv",
        ("decode", number("IQ4_NL")): "garbage",
        ("decode", number("Q5_1")): "garbage in the channel",
    }
    expected = {
        "F16": ("MEASURED", ""),
        "Q4_0": ("CRASHED", "killed by SIGABRT"),
        "Q8_0": ("MEASURED", ""),
        "Q5_0": ("TIMEOUT", f"no sign of life for {STALL_S} s"),
        "Q4_K_M": ("CRASHED", "killed by SIGSEGV"),
        "IQ4_NL": ("MEASURED", ""),
        "Q5_1": ("TIMEOUT", f"no sign of life for {STALL_S} s"),
    }
    python = make_faulty_interpreter(tmp_path / "faulty", faults)
    cells, seconds_s = run(own_cache, python, tuple(expected))
    assert {name: cell["verdict"] for name, cell in cells.items()} == {
        name: verdict for name, (verdict, _) in expected.items()
    }
    for name, (_, reason) in expected.items():
        assert reason in cells[name]["reason"]
    assert seconds_s < 60
    honest, _ = run(own_cache, make_interpreter(tmp_path / "honest"), ("F16", "Q8_0", "IQ4_NL"))
    assert {name: cell["ppl"] for name, cell in honest.items()} == {
        name: cells[name]["ppl"] for name in honest
    }, "what the others measured is what an engine without faults measures"


@pytest.mark.skipif(sys.platform != "linux", reason="libraries are ELF files there")
def test_a_library_of_another_architecture_is_told_in_one_line(
    own_cache: Project, tmp_path: Path
) -> None:
    library, machine = put_foreign_library(tmp_path)
    cells, _ = run(own_cache, make_interpreter(tmp_path), ("F16", "Q8_0", "Q4_0"))
    assert {cell["verdict"] for cell in cells.values()} == {"UNAVAILABLE"}
    (reason,) = {cell["reason"] for cell in cells.values()}
    assert reason.startswith(f"{library} is built for {machine}, and ")
    assert "\n" not in reason


def test_an_interpreter_that_never_answers_costs_its_deadline_once(
    own_cache: Project, tmp_path: Path
) -> None:
    python = write_script(tmp_path, "sleep 600")
    cells, seconds_s = run(own_cache, python, ("F16", "Q8_0", "Q4_0", "Q5_0"))
    assert {cell["verdict"] for cell in cells.values()} == {"TIMEOUT"}
    assert {cell["reason"] for cell in cells.values()} == {
        f"the interpreter '{python}' did not answer within {STALL_S} s; it was ended."
        f" Try it: {python} --version"
    }
    assert seconds_s < 3 * STALL_S
