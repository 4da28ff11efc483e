"""A cell whose record the disk does not take is red in one line, and stays in table and report."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from pytest_quantgate.plugin import gating
from pytest_quantgate.results.events import CellStarted, EventLog
from pytest_quantgate.storage.atomic import write_json
from pytest_quantgate.storage.environment import environment
from tests.conftest import Project


def fill_disk(monkeypatch: pytest.MonkeyPatch, *, when: str) -> None:
    """Let no record be written whose JSON contains a text."""

    def write(path: Path, content: object) -> None:
        with environment("cannot write", path):
            if when in json.dumps(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_json(path, content)

    monkeypatch.setattr(gating, "write_json", write)


@pytest.mark.parametrize("options", [(), ("--snapshot-update", "--quant-reason=r")])
def test_a_record_that_cannot_be_written_is_in_the_report(
    own_cache: Project, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    own_cache.use_fake_engine()
    fill_disk(monkeypatch, when="tiny-Q8_0-cpu")
    result = own_cache.matrix("--quant-report=report.json", *options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*UNAVAILABLE: cannot write *.json: No space left on device; *"])
    result.stdout.fnmatch_lines(["1 of 3 cells red*"])
    result.stdout.no_fnmatch_line("E  *")
    result.stdout.no_fnmatch_line("*During handling*")
    record = json.loads((own_cache.root / "report.json").read_text())
    verdicts = {cell["format"]: cell["verdict"] for cell in record["cells"]}
    assert verdicts.keys() == {"F16", "Q8_0", "Q4_0"}
    assert verdicts["Q8_0"] == "UNAVAILABLE"


def test_a_baseline_that_cannot_be_written_is_not_accepted(own_cache: Project) -> None:
    own_cache.use_fake_engine()
    (own_cache.root / "baselines").write_text("a file where the folder should be")
    result = own_cache.accept()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*UNAVAILABLE: cannot write *-c64.json: *", "3 of 3 cells red*"])
    result.stdout.no_fnmatch_line("E  *")
    result.stdout.no_fnmatch_line("*During handling*")


def test_what_a_killed_run_left_of_a_baseline_goes(own_cache: Project) -> None:
    own_cache.use_fake_engine()
    left = own_cache.root / "baselines" / "tiny" / "F16-cpu-story-c64.json.0.partial"
    left.parent.mkdir(parents=True)
    left.write_text("{")
    assert own_cache.accept().ret == pytest.ExitCode.OK
    assert left.with_suffix("").with_suffix("").is_file()
    assert not left.exists()


def test_nothing_can_be_written(own_cache: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    own_cache.use_fake_engine()
    fill_disk(monkeypatch, when="")
    result = own_cache.matrix()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["3 of 3 cells red*"])
    result.stdout.no_fnmatch_line("E  *")


def test_a_line_of_events_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append(CellStarted(cell="a"))
    with log.path.open("a") as stream:
        stream.write('{"event": "CellSta')
    log.append(CellStarted(cell="lost with it"))
    log.append(CellStarted(cell="b"))
    events, position = log.read(0)
    assert [event.cell for event in events] == ["a", "b"]
    assert position == log.path.stat().st_size
