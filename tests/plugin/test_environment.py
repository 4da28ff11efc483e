"""A machine that refuses: one line, red whatever is optional, and nothing spoiled stays."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Project
from tests.storage.test_environment import small_disk

__all__ = ["small_disk"]


def test_a_full_disk_is_no_engines_fault(project: Project, small_disk: Path) -> None:
    """Half of Q8_0's file fits; being optional excuses what an engine refuses, and not this."""
    project.configure(formats=("F16", "Q8_0"), profile='optional = ["Q8_0"]')
    subprocess.run(["mount", "-o", "remount,size=1500k", str(small_disk)], check=True)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(500_000))
    result = project.matrix(f"--quant-cache={small_disk}", "--quant-report=report.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    cells = json.loads((project.root / "report.json").read_text())["cells"]
    assert [cell["verdict"] for cell in cells][1] == "UNAVAILABLE"
    assert "too full for a file of" in cells[1]["reason"]
    assert not list(small_disk.rglob("*.partial"))
    assert not list(small_disk.glob("artifacts/*.gguf"))


def test_a_read_only_cache_is_a_usage_error(project: Project, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    result = project.matrix(f"--quant-cache={small_disk}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: cannot make the folder *: Read-only file system; *"])
