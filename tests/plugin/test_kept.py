"""What was measured stays measured: a later run reads it, until anything that makes it changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from pytest_quantgate.metrics import scoring
from tests.conftest import Project

RECORD = "--quant-report=report.json"


def chunks_scored(project: Project) -> dict[str, int]:
    """Return how many chunks the last run scored, by cell."""
    path = max(project.cache.glob("runs/*/events.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    done: dict[str, list[int]] = {}
    for event in map(json.loads, path.read_text().splitlines()):
        if event["event"] == "Scoring":
            done.setdefault(event["cell"], []).append(event["done"])
    return {cell: max(steps) - min(steps) for cell, steps in done.items()}


def cells(project: Project) -> dict[str, dict[str, Any]]:
    """Return the cells of the last record by their format."""
    record = json.loads((project.root / "report.json").read_text())
    return {cell["format"]: cell for cell in record["cells"]}


@pytest.fixture
def measured(own_cache: Project) -> Project:
    """A project of which every cell was measured once."""
    own_cache.use_fake_engine()
    assert own_cache.matrix(RECORD).ret == pytest.ExitCode.OK
    assert chunks_scored(own_cache) == {f"tiny-{name}-cpu": 16 for name in ("F16", "Q8_0", "Q4_0")}
    return own_cache


def test_the_next_run_reads_it_and_says_so(measured: Project) -> None:
    before = cells(measured)
    assert not any("--quant-fresh" in note for cell in before.values() for note in cell["notes"])
    result = measured.matrix(RECORD)
    assert not chunks_scored(measured)
    after = cells(measured)
    assert {name: cell["chunks"] for name, cell in after.items()} == {
        name: cell["chunks"] for name, cell in before.items()
    }
    result.stdout.fnmatch_lines(["*scored *, *:*; --quant-fresh scores it anew*"])


def test_a_fresh_run_measures_anew(measured: Project) -> None:
    measured.matrix(RECORD, "--quant-fresh")
    assert sum(chunks_scored(measured).values()) == 48
    assert not any(
        "--quant-fresh" in note for cell in cells(measured).values() for note in cell["notes"]
    )


@pytest.mark.parametrize(
    "change", [{"library": "another build"}, {"cpu": "another processor"}, {"Q4_0": "worse"}]
)
def test_another_engine_measures_anew(measured: Project, change: dict[str, str]) -> None:
    """The last fault stands for a variable that chooses another kernel."""
    measured.set_faults(**change)
    measured.matrix(RECORD)
    assert sum(chunks_scored(measured).values()) == 48


def test_another_release_of_this_package_measures_anew(
    measured: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its own code did wrong must not outlive the code."""
    monkeypatch.setattr(scoring, "code_sha256", lambda *_rooms: "another release's")
    measured.matrix(RECORD)
    assert sum(chunks_scored(measured).values()) == 48


def test_other_settings_measure_anew(measured: Project) -> None:
    measured.configure(profile="flash_attention = false")
    measured.matrix(RECORD)
    assert sum(chunks_scored(measured).values()) == 48


def test_a_larger_budget_adds_chunks(measured: Project) -> None:
    measured.configure(profile="chunks = 20")
    measured.matrix(RECORD)
    assert set(chunks_scored(measured).values()) == {4}


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_a_killed_run_goes_on_where_it_was(project: Project, own_cache: Project) -> None:
    """With a real engine: what it had scored of a cell is not scored again, figures are equal."""
    del project
    undisturbed = own_cache.matrix(RECORD, "--quant-fresh")
    assert undisturbed.ret == pytest.ExitCode.OK
    expected = {name: cell["chunks"] for name, cell in cells(own_cache).items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--quant-matrix", f"--quant-cache={own_cache.cache}"],
        cwd=own_cache.root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    runs = set(own_cache.cache.glob("runs/*"))
    while process.poll() is None:
        new = [
            path for path in own_cache.cache.glob("runs/*/events.jsonl") if path.parent not in runs
        ]
        if any(b'"CellJudged"' in path.read_bytes() for path in new):
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.002)
    process.wait()
    assert own_cache.matrix(RECORD).ret == pytest.ExitCode.OK
    assert "tiny-F16-cpu" not in chunks_scored(own_cache), "it was measured before the kill"
    assert {name: cell["chunks"] for name, cell in cells(own_cache).items()} == expected
