"""Two formats of one run, held against each other: the record's figures, paired by chunk."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_quantgate import stats
from pytest_quantgate.cli.main import main
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.reports.blocks import Table, plain
from pytest_quantgate.reports.pairs import better, find_pairs, pair_blocks
from pytest_quantgate.reports.run_tables import run_tables
from pytest_quantgate.reports.write import write_report
from pytest_quantgate.results.record import CellRecord
from tests.reports.test_report import TOKENS, cell, divergence, record


def diverging(name: str, about: float, nats: float, **changes: object) -> CellRecord:
    made = cell(name, about, 5, divergence=divergence(nats), **changes)
    shares = [1 + 0.1 * math.sin(3 * n) for n in range(16)]
    sums = [TOKENS * nats * 16 * share / math.fsum(shares) for share in shares]
    return replace(made, chunks=made.chunks.replace(kld_sum_nats=sums))


def rows(first: str, second: str, *cells: CellRecord) -> dict[str, list[str]]:
    (table,) = pair_blocks(find_pairs(record(*cells), first, second))
    assert isinstance(table, Table)
    return {plain(r.cells[0]): [plain(text) for text in r.cells[1:]] for r in table.rows}


def test_figures_are_those_of_the_record() -> None:
    one, other = diverging("Q4_K_M", 21, 0.04), diverging("MXFP4_MOE", 22, 0.08)
    told = rows("Q4_K_M", "MXFP4_MOE", cell("F16", 20, 16), one, other)
    pair = other.chunks.paired(one.chunks)
    change = stats.ppl_change(pair.nll().mean)
    assert told["PPL"][2].startswith(f"+{100 * change:.2f} % [")
    assert told["PPL"][3] == "Q4_K_M better"
    before, after = one.chunks.kld_sums, other.chunks.kld_sums
    assert before is not None
    assert after is not None
    low, high = stats.interval(other.chunks.difference(before, after))
    difference = math.fsum(after) / 1600 - math.fsum(before) / 1600
    expected = f"{difference:+.5f} [{low:+.5f}, {high:+.5f}]"
    assert told["mean KLD"][2:] == [expected, "Q4_K_M better"]


def test_matrices_are_a_pair_in_each_format() -> None:
    cells = [
        diverging(name, 21 + n / 10, 0.04, imatrix=matrix, tensor_data_sha256=f"{name}{matrix}")
        for n, (name, matrix) in enumerate(
            (name, matrix) for name in ("Q4_K_M", "Q5_0") for matrix in (None, "calibration")
        )
    ]
    pairs = find_pairs(record(*cells), "none", "calibration")
    assert [(p.first.format, p.first.imatrix, p.second.imatrix) for p in pairs] == [
        ("Q4_K_M", None, "calibration"),
        ("Q5_0", None, "calibration"),
    ]


def test_equal_bytes_have_one_speed() -> None:
    twin = diverging("MXFP4_MOE", 21, 0.04, tensor_data_sha256="Q8_0")
    cells = (diverging("Q8_0", 21, 0.04), twin)
    told = rows("Q8_0", "MXFP4_MOE", *cells)
    assert told["PPL"][-1] == "identical"
    (table,) = pair_blocks(find_pairs(record(*cells), "Q8_0", "MXFP4_MOE"))
    assert isinstance(table, Table)
    same = "the same tensors, byte for byte: any difference of speed is chance"
    assert same in map(plain, table.notes)


def test_a_pair_agrees_with_the_runs_own_table_to_the_digit() -> None:
    """Both are of the same record, so what a reader sees in one must be in the other."""
    made = record(cell("F16", 20, 9), diverging("Q8_0", 20.1, 0.01), diverging("Q4_0", 21, 0.04))
    (whole,) = run_tables(made)
    headings = [column.heading for column in whole.columns]
    by_format = {
        plain(line.cells[0]): dict(zip(headings, map(plain, line.cells), strict=True))
        for line in whole.rows
    }
    for name in ("Q8_0", "Q4_0"):
        told = rows("F16", name, *made.cells)
        assert told["size MB"][:2] == [by_format[n]["size MB"] for n in ("F16", name)]
        assert told["PPL"][:2] == [by_format[n]["PPL"] for n in ("F16", name)]
        assert told["PPL"][2] == by_format[name]["ΔPPL vs reference [95 %]"]
    told = rows("Q8_0", "Q4_0", *made.cells)
    for shown, name in zip(told["mean KLD"], ("Q8_0", "Q4_0"), strict=False):
        assert f"{float(shown):.4f}" == by_format[name]["KLD"]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.0, 0.0, "identical"),
        (0.1, 0.2, "a better"),
        (-0.2, -0.1, "b better"),
        (-0.1, 0.1, "no difference"),
        (-math.inf, math.inf, "not known: too few chunks"),
        (math.nan, math.nan, "not known: too few chunks"),
    ],
)
def test_less_is_better_beyond_the_interval(low: float, high: float, words: str) -> None:
    assert better(low, high, ("a", "b")) == words


def test_what_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = record(diverging("Q4_0", 21, 0.04), diverging("Q5_0", 21, 0.03))
    with pytest.raises(ConfigError, match="no model of the record has both; formats: Q4_0, Q5_0"):
        find_pairs(made, "Q4_0", "Q8_0")
    path = tmp_path / "run.json"
    write_report(path, made)
    assert main(["compare", str(path), "--pair", "Q4_0", "Q5_0"]) == 0
    assert "Q5_0 against Q4_0" in capsys.readouterr().out
    for wrong in ([str(path)], [str(path), str(path), "--pair", "Q4_0", "Q5_0"]):
        assert main(["compare", *wrong]) == 2
        assert "name two records, or one record and --pair A B" in capsys.readouterr().err
