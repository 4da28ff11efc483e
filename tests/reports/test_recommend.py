"""A recommendation agrees with the record to the digit, and says why each other format is out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_quantgate.cli.main import main
from pytest_quantgate.reports.blocks import Row, Table, plain
from pytest_quantgate.reports.recommend import Wishes, candidates, choice, recommend_blocks
from pytest_quantgate.reports.run_tables import group_cells, label, run_tables
from pytest_quantgate.reports.text import text
from pytest_quantgate.reports.write import write_report
from pytest_quantgate.results.record import CellRecord, RunRecord
from tests.reports.test_report import cell, divergence, record


def format_of(name: str, megabytes: float, nats: float, top: float = 0.9) -> CellRecord:
    made = replace(divergence(nats), same_top=top)
    return cell(name, 20 + nats, megabytes, divergence=made)


def measured() -> RunRecord:
    return record(
        cell("F16", 20, 16.0),
        format_of("Q8_0", 9.0, 0.01, 0.98),
        format_of("Q5_0", 7.5, 0.05, 0.93),
        format_of("Q5_K_M", 7.0, 0.03, 0.95),
        format_of("Q4_0", 5.0, 0.2, 0.85),
        format_of("Q2_K", 3.0, 0.6, 0.6),
        replace(format_of("Q3_K_M", 4.0, 0.1), verdict="REGRESSED"),
        replace(format_of("MXFP4_MOE", 9.0, 0.01, 0.98), tensor_data_sha256="Q8_0"),
    )


def reasons(wishes: Wishes) -> tuple[str | None, dict[str, str]]:
    (group,) = group_cells(measured())
    judged = candidates(group, wishes)
    best = choice([item for item in judged if not item.why_not], wishes)
    told = {label(item.cell): item.why_not for item in judged if item.why_not}
    return None if best is None else label(best.cell), told


def test_each_format_that_is_out_has_its_reason() -> None:
    best, told = reasons(Wishes(max_bytes=9.5e6, min_same_top=0.8))
    assert best == "Q8_0"
    assert told == {
        "F16": "16.000 MB is more than 9.500 MB",
        "MXFP4_MOE": "the same bytes as Q8_0",
        "Q5_0": "Q5_K_M is no larger and no further from the reference",
        "Q3_K_M": "red: REGRESSED",
        "Q2_K": "same top 60.0 % is below 80.0 %",
    }


@pytest.mark.parametrize(
    ("wishes", "best"),
    [
        (Wishes(), "F16"),
        (Wishes(prefer="size"), "Q2_K"),
        (Wishes(prefer="size", max_kld_nats=0.2), "Q4_0"),
        (Wishes(prefer="size", max_kld_nats=0.19), "Q5_K_M"),
        (Wishes(max_bytes=2e6), None),
        (Wishes(prefer="decode"), None),
    ],
)
def test_the_best_of_what_is_preferred_is_taken(wishes: Wishes, best: str | None) -> None:
    assert reasons(wishes)[0] == best


def test_a_sentence_says_it() -> None:
    told = text(recommend_blocks(measured(), Wishes(max_bytes=9.5e6)), 120)
    assert "Take Q8_0 (9.0 MB, KLD 0.0100, same top 98.0 %): nothing that fits is nearer" in told
    assert "No format keeps these wishes." in text(
        recommend_blocks(measured(), Wishes(max_bytes=1))
    )


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.json"
    write_report(path, measured())
    wishes = ["--max-bytes", "9.5MB", "--min-same-top", "80%", "--prefer", "size"]
    assert main(["recommend", str(path), *wishes]) == 0
    assert "Take Q4_0 (5.0 MB" in capsys.readouterr().out
    for wrong in (["--max-bytes", "big"], ["--min-same-top", "90"]):
        with pytest.raises(SystemExit):
            main(["recommend", str(path), *wrong])
        assert "write for example" in capsys.readouterr().err


def test_a_recommendation_agrees_with_the_runs_own_table_to_the_digit() -> None:
    made = measured()
    (whole,) = run_tables(made)
    figures = ("size MB", "KLD", "same top")
    of_run = {plain(line.cells[0]).removesuffix(" †"): _cells(whole, line) for line in whole.rows}
    tables = [item for item in recommend_blocks(made, Wishes()) if isinstance(item, Table)]
    (table,) = tables
    assert len(table.rows) == len(made.cells)
    for line in table.rows:
        name = plain(line.cells[0])
        if name != "F16":
            chosen = _cells(table, line)
            assert [chosen[f] for f in figures] == [of_run[name][f] for f in figures]


def _cells(table: Table, line: Row) -> dict[str, str]:
    headings = (column.heading for column in table.columns)
    return dict(zip(headings, map(plain, line.cells), strict=True))


def test_a_fault_detector_is_no_advice() -> None:
    made = record(*(replace(item, is_miniature=True) for item in measured().cells))
    told = text(recommend_blocks(made, Wishes(max_bytes=9.5e6)), 200)
    assert "By these figures it would be Q8_0" in told
    assert "Take Q8_0" not in told
