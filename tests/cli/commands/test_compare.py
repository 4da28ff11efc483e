"""``quantgate compare``: what is printed and written, and the exit status."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_quantgate.cli.main import main
from pytest_quantgate.reports.write import write_report
from pytest_quantgate.results.record import RunRecord, to_plain
from tests.gate.compare.records import OTHER_TYPES, failed, run_of, scored


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a run of the old engine."""
    write_report(tmp_path / "old.json", OLD)
    return tmp_path


OLD = run_of(scored("F16", engine="old"), scored("Q4_K_M", engine="old"), engine="old")
SAME = run_of(scored("F16"), scored("Q4_K_M"))
WORSE = run_of(scored("F16"), scored("Q4_K_M", tensors=OTHER_TYPES, shift=0.01))


def compare(folder: Path, new: RunRecord, *options: str) -> int:
    """Compare a run with the old engine's."""
    write_report(folder / "new.json", new)
    return main(["compare", str(folder / "old.json"), str(folder / "new.json"), *options])


def test_no_change_is_said_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(folder, SAME) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Comparison: llama-cpp-python 0.3.30 → 0.3.36",
        "No change: bit-identical on 2 cells, 8,160 tokens.",
    ]


def test_what_is_worse_is_told_with_its_cause(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(folder, WORSE) == 1
    _, headline, headings, row = capsys.readouterr().out.splitlines()
    assert headline == (
        "1 of 2 cells is red: m-Q4_K_M-cpu REGRESSED (PPL +1.01 %, quantizer); 1 bit-identical."
    )
    assert headings.startswith("cell ")
    assert row.split()[:2] == ["m-Q4_K_M-cpu", "REGRESSED"]


def test_markdown_is_printed_and_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(folder, WORSE, "--markdown") == 1
    printed = capsys.readouterr().out
    assert printed.startswith("# Comparison: llama-cpp-python 0.3.30 → 0.3.36\n")
    assert "1 of 6 tensors changed type (ffn_down Q6_K → Q4_K in blk.0)" in printed
    assert compare(folder, WORSE, "-o", str(folder / "out.md")) == 1
    assert (folder / "out.md").read_text(encoding="utf-8") == printed
    assert capsys.readouterr().out == ""


def test_cells_of_one_side_are_told_and_are_no_failure(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(folder, run_of(scored("Q4_K_M"), scored("Q2_K"))) == 0
    said = capsys.readouterr().out
    assert "note: only in the old run: m-F16-cpu\n" in said
    assert "note: only in the new run: m-Q2_K-cpu\n" in said


def test_what_the_new_engine_cannot_do_is_red(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = failed("Q4_K_M", verdict="UNSUPPORTED", reason="unknown type\nlog")
    assert compare(folder, run_of(scored("F16"), lost)) == 1
    said = capsys.readouterr().out
    assert "note: m-Q4_K_M-cpu: no longer; the new engine gave UNSUPPORTED: unknown type" in said


def test_another_text_is_told_in_a_line_a_cell(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(scored("Q4_K_M"), text_sha256="0" * 64)
    assert compare(folder, run_of(other)) == 1
    said = capsys.readouterr().out
    assert "m-Q4_K_M-cpu NOT_COMPARABLE" in said
    assert "note: m-Q4_K_M-cpu: the text's bytes are not the old record's (SHA-256 000000" in said


def test_a_record_of_before_is_not_comparable(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = to_plain(SAME)
    for cell in plain["cells"]:
        for name in ("key", "made_by", "tensors", "limits"):
            del cell[name]
    (folder / "new.json").write_text(json.dumps(plain), encoding="utf-8")
    assert main(["compare", str(folder / "old.json"), str(folder / "new.json")]) == 1
    said = capsys.readouterr().out
    assert "a record lacks what two are compared by: it is of an older pytest-quantgate" in said


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "is no run record of version 2"),
        ('{"version": 99}', "is no run record of version 2 (version 99)"),
        ('{"version": 1}', "is damaged"),
    ],
)
@pytest.mark.parametrize("side", [0, 1])
def test_what_cannot_be_used_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], content: str | None, why: str, side: int
) -> None:
    wrong = folder / "wrong.json"
    if content is not None:
        wrong.write_text(content)
    paths = [str(folder / "old.json")] * 2
    paths[side] = str(wrong)
    assert main(["compare", *paths]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(wrong) in said
    assert why in said


def test_runs_without_a_common_cell_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(folder, run_of(scored("Q8_0", model="other"))) == 2
    said = capsys.readouterr().err
    assert said == (
        "quantgate: the two records have no cell in common: the first has m-F16-cpu,"
        " m-Q4_K_M-cpu, the second other-Q8_0-cpu; compare runs of the same models, formats, texts"
        " and devices\n"
    )


def test_another_ending_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(folder, SAME, "-o", "out.html") == 2
    assert "--output 'out.html': the valid ending is .md" in capsys.readouterr().err
