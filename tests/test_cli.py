"""The ``quantgate`` command."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_quantgate.cli import main
from pytest_quantgate.report.write import write_report
from tests.report.test_report import cell, record


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A run record of three formats."""
    path = tmp_path / "run.json"
    write_report(path, record(cell("F16", 10, 20), cell("Q8_0", 11, 10), cell("Q4_0", 12, 5)))
    return path


def test_a_record_is_shown_and_written(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(saved)]) == 0
    assert "Q4_0" in capsys.readouterr().out
    assert main(["report", str(saved), "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# Quantization gate")
    target = saved.with_suffix(".md")
    assert main(["report", str(saved), "-o", str(target)]) == 0
    assert target.read_text(encoding="utf-8") == printed


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 99}', '{"version": 1}'])
def test_what_is_no_record_is_one_line(
    saved: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    saved.write_text(content)
    assert main(["report", str(saved)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(saved) in said


def test_the_cache_is_shown_and_cleared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = tmp_path / "artifacts" / "x.gguf"
    artifact.parent.mkdir()
    artifact.write_bytes(b"1" * 1000)
    token = tmp_path / "tokens" / "t.npz"
    token.parent.mkdir()
    token.write_bytes(b"1")
    assert main(["cache", "--dir", str(tmp_path)]) == 0
    assert "artifacts" in capsys.readouterr().out
    assert main(["cache", "--dir", str(tmp_path), "--clear"]) == 0
    assert not artifact.exists()
    assert token.exists(), "what a baseline refers to is kept"


def test_the_devices_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("llama-cpp-python ")
    assert "cpu       the processor alone" in out
    assert " GB free" in out


def test_an_interpreter_that_is_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--python", "/no/such/python"]) == 2
    assert "the engine lists no devices: the interpreter" in capsys.readouterr().err
