"""A run that is killed anywhere and started again ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Project

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")

ARGUMENTS = (
    "--quant-matrix",
    "--quant-report=report.json",
    "--quant-cache=cache",
    "--snapshot-update",
    "--quant-reason=kept",
)


def kill_after_events(folder: Path, n_events: int, *way: str) -> bool:
    """Start a run, kill it once it has told so many events, and say whether it was killed.

    Its events are the only clock: no time is guessed.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *ARGUMENTS, *way],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None:
        told = sum(path.read_bytes().count(b"\n") for path in folder.glob("cache/runs/*/events.*"))
        if told >= n_events:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.002)
    return False


def outcome(project: Project) -> tuple[list[tuple[str, str, list[float]]], dict[str, str]]:
    """Return the cells' verdicts and sums, and the stored baselines."""
    record = json.loads((project.root / "report.json").read_text())
    cells = [
        (cell["id"], cell["verdict"], cell["chunks"]["nll_sum_nats"]) for cell in record["cells"]
    ]
    return cells, {path.name: path.read_text() for path in project.baselines}


def no_torn_file(project: Project) -> None:
    """Every JSON can be read, and nothing half-written lies among artifacts and baselines."""
    for path in project.root.rglob("*.json"):
        json.loads(path.read_text())
    for folder in ("cache/artifacts", "baselines"):
        assert not list((project.root / folder).rglob("*.partial"))


@pytest.mark.parametrize(
    "n_events",
    [
        1,
        30,
        pytest.param(3, marks=pytest.mark.slow),
        pytest.param(19, marks=pytest.mark.slow),
        pytest.param(22, marks=pytest.mark.slow),
        pytest.param(25, marks=pytest.mark.slow),
        pytest.param(45, marks=pytest.mark.slow),
        pytest.param(60, marks=pytest.mark.slow),
        pytest.param(75, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_starts_again(project: Project, n_events: int) -> None:
    assert project.matrix(*ARGUMENTS).ret == pytest.ExitCode.OK
    undisturbed = outcome(project)
    for name in ("report.json", "baselines", "cache"):
        subprocess.run(["rm", "-rf", str(project.root / name)], check=True)
    assert kill_after_events(project.root, n_events)
    # Baselines that were accepted before the kill are whole, and now judged against.
    assert {path.read_text() for path in project.baselines} <= set(undisturbed[1].values())
    again = project.matrix(*ARGUMENTS)
    assert again.ret == pytest.ExitCode.OK
    final = project.matrix("--quant-report=report.json", "--quant-cache=cache")
    assert final.ret == pytest.ExitCode.OK
    cells, baselines = outcome(project)
    assert [(name, sums) for name, _, sums in cells] == [(n, sums) for n, _, sums in undisturbed[0]]
    assert {verdict for _, verdict, _ in cells} == {"PASS"}
    assert baselines == undisturbed[1]
    no_torn_file(project)


@pytest.mark.slow
@pytest.mark.parametrize("n_events", [1, 25, 50])
def test_a_killed_run_under_xdist_starts_again(project: Project, n_events: int) -> None:
    assert kill_after_events(project.root, n_events, "-n2")
    assert project.matrix(*ARGUMENTS, "-n2").ret == pytest.ExitCode.OK
    final = project.matrix("--quant-report=report.json", "--quant-cache=cache")
    assert final.ret == pytest.ExitCode.OK
    assert {verdict for _, verdict, _ in outcome(project)[0]} == {"PASS"}
    no_torn_file(project)
