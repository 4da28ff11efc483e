"""What GitHub Actions shows: annotations that nothing in a text can break out of, and a summary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.cli.main import main
from pytest_quantgate.reports.github import (
    MAX_ANNOTATIONS,
    MAX_SUMMARY_BYTES,
    annotation_lines,
    escape_message,
    escape_property,
    summary,
)
from pytest_quantgate.reports.write import run_markdown, write_report
from pytest_quantgate.results.verdicts import Cause, CauseKind
from tests.reports.test_report import cell, record

RED = cell(
    "Q4_0",
    20,
    5,
    verdict="REGRESSED",
    reason="PPL +1 %, above 0.5 %\nmore",
    cause=Cause(kind=CauseKind.RUNTIME),
)


def test_a_red_cell_is_an_error_and_a_note_a_warning() -> None:
    noted = cell("Q2_K", 21, 4, notes=("97 % of the bytes: fell back",))
    lines = annotation_lines(
        replace(record(RED, noted), warnings=("a, b",), missing=("shard 2/2",))
    )
    assert lines == [
        "::error title=m-Q4_0-cpu REGRESSED::"
        "PPL +1 %25, above 0.5 %25%0Amore%0Acause: runtime kernels",
        "::error title=Missing::shard 2/2",
        "::warning title=quantgate::a, b",
        "::warning title=m-Q2_K-cpu::97 %25 of the bytes: fell back",
    ]


def test_what_is_green_accepted_or_skipped_is_no_error() -> None:
    accepted = replace(RED, accepted="PPL 1 → 2")
    skipped = cell("IQ1_S", 20, 5, verdict="UNSUPPORTED", is_skipped=True)
    assert annotation_lines(record(cell("F16", 20, 9), accepted, skipped)) == []


@pytest.mark.parametrize(
    ("text", "message", "title"),
    [
        ("a:b,c", "a:b,c", "a%3Ab%2Cc"),
        ("100 %\r\n::error::x", "100 %25%0D%0A::error::x", "100 %25%0D%0A%3A%3Aerror%3A%3Ax"),
        ("%0A", "%250A", "%250A"),
    ],
)
def test_escaping(text: str, message: str, title: str) -> None:
    assert escape_message(text) == message
    assert escape_property(text) == title


@given(st.text())
def test_nothing_breaks_out_of_an_annotation(text: str) -> None:
    """One line, one command, and the runner reads back what was said."""
    for escaped in (escape_message(text), escape_property(text)):
        assert "\n" not in escaped
        assert "\r" not in escaped
        assert unquote(escaped) == text
    assert not {":", ","} & set(escape_property(text))


def test_no_more_annotations_than_github_shows() -> None:
    """The last one says how many there are besides."""
    cells = [replace(RED, id=f"c{n}", notes=("note",)) for n in range(MAX_ANNOTATIONS)]
    assert len(annotation_lines(record(*cells))) == 2 * MAX_ANNOTATIONS
    lines = annotation_lines(record(*cells, replace(RED, id="one more", notes=("note",))))
    assert len(lines) == 2 * MAX_ANNOTATIONS
    assert lines[MAX_ANNOTATIONS - 1] == "::error title=quantgate::and 2 more: see the summary"
    assert lines[-1] == "::warning title=quantgate::and 2 more: see the summary"


def test_a_summary_with_room_is_the_report() -> None:
    made = record(cell("F16", 20, 9), RED)
    assert summary(made) == run_markdown(made)


def test_a_summary_without_room_for_all_has_what_is_red() -> None:
    """Whole lines, below the limit, and a word that there is more."""
    many = [cell(f"Q{n}", 20 + n, 5) for n in range(2000)]
    made = record(*many, RED)
    room = len(run_markdown(made).encode()) - 1
    text = summary(made, room)
    assert text.splitlines()[0] == "# Quantization gate: 1 of 2,001 cells red"
    assert "**m-Q4_0-cpu** REGRESSED" in text
    assert "Q7 " not in text
    assert text.endswith("(Shortened: the run record has all of it.)\n")
    long = record(*(replace(RED, id=f"c{n}", reason="ü" * 100) for n in range(200)))
    for room in (5000, 5001, 5002):
        text = summary(long, room)
        assert room - 400 < len(text.encode()) <= room
        assert set(text.splitlines()[:-1]) <= set(run_markdown(long).splitlines()), "whole lines"
    assert summary(long, 10) == ""
    assert summary(long, -5) == ""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A run's record with a red cell."""
    path = tmp_path / "run.json"
    write_report(path, record(cell("F16", 20, 9), RED))
    return path


def test_the_command_appends_to_the_summary_and_prints_annotations(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = saved.parent / "summary.md"
    target.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(target))
    assert main(["report", str(saved), "--github"]) == 0
    text = target.read_text(encoding="utf-8")
    assert text.startswith("before\n# Quantization gate: 1 of 2 cells red\n")
    assert capsys.readouterr().out.startswith("::error title=m-Q4_0-cpu REGRESSED::PPL +1 %25")


def test_what_is_in_the_summary_already_takes_room(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = saved.parent / "summary.md"
    target.write_text("x" * (MAX_SUMMARY_BYTES - 200))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(target))
    assert main(["report", str(saved), "--github"]) == 0
    assert MAX_SUMMARY_BYTES - 200 < target.stat().st_size <= MAX_SUMMARY_BYTES


@pytest.mark.parametrize("name", [None, "", "/no/such/folder/summary.md"])
def test_without_a_summary_to_write_to_the_command_says_so(
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str | None,
) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    if name is not None:
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", name)
    assert main(["report", str(saved), "--github"]) == 2
    said = capsys.readouterr()
    assert "GITHUB_STEP_SUMMARY" in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
