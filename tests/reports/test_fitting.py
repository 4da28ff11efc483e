"""A table fits its terminal, and no figure is lost for it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pytest_quantgate.reports.fitting import lay_out, table_width, text_lines
from pytest_quantgate.reports.table import Table, make_tables
from pytest_quantgate.results.chunk_table import Shift
from tests.reports.test_report import cell, record

REASON = "PPL identical to the baseline's on 4,080 tokens; size +0.00 % against the baseline"
DELTA = Shift(
    change=0.2807,
    low=0.2226,
    high=0.3416,
    chunks=16,
    chunks_changed=16,
    of_documents=True,
    clusters=16,
    tokens=4080,
    tokens_changed=4080,
)
EXTRA = ("prefill t/s [95 %]", "decode t/s [95 %]", "peak MB")
SPEEDS = ("1,234.5 (1.21× [1.18, 1.24])", "98.76 (0.98× [0.95, 1.01])", "1,234.5")


def usual(delta: Shift | None = DELTA) -> Table:
    """Return a table of a model with a long reason in each row."""
    cells = [
        cell(name, about, 5.0, reason=REASON, ppl_vs_reference=delta)
        for name, about in (("F16", 20.0), ("Q4_K_M", 21.5), ("MXFP4_MOE", 30.0))
    ]
    (table,) = make_tables(record(*cells))
    return table


def with_speed(table: Table) -> Table:
    """Return the table with columns of speed and memory."""
    return replace(
        table,
        headings=(*table.headings[:-2], *EXTRA, *table.headings[-2:]),
        rows=tuple(
            replace(row, columns=(*row.columns[:-2], *SPEEDS, *row.columns[-2:]))
            for row in table.rows
        ),
    )


def with_matrix(table: Table) -> Table:
    """Return the table with names of formats and their importance matrix."""
    rows = [
        replace(row, columns=(f"{row.columns[0]} + calibration", *row.columns[1:]))
        for row in table.rows
    ]
    return replace(table, rows=tuple(rows))


TABLES = {
    "usual": usual(),
    "speed": with_speed(usual()),
    "matrix": with_matrix(usual()),
    "speed and matrix": with_speed(with_matrix(usual())),
}


@pytest.mark.parametrize("width", [100, 110, 120, 140, 160, 200, 300])
@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_line_fits_and_every_figure_is_there(table: Table, width: int) -> None:
    lines = text_lines(table, width)
    assert max(map(len, lines)) <= width
    text = re.sub(r" +", " ", "\n".join(lines))
    for row in table.rows:
        for figure in row.columns[:-1]:
            assert re.sub(r" +", " ", figure) in text


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_columns_are_aligned(table: Table) -> None:
    found = lay_out(table, 120)
    column = found.heading.index("verdict")
    assert {row[column : column + 4] for row in found.rows} == {"PASS"}


def test_what_gives_way_gives_way_in_order() -> None:
    """The reason's clauses, the heading, the other measurements' place, the reason, the gaps."""
    table = with_speed(usual(None))
    change = table.headings[4]

    def shape(width: int) -> tuple[bool, bool, bool, bool]:
        heading = lay_out(table, width).heading
        return change in heading, EXTRA[0] in heading, heading.endswith("why"), "  KLD" in heading

    shapes = list(dict.fromkeys(shape(width) for width in range(300, 60, -1)))
    assert shapes == [
        (True, True, True, True),
        (False, True, True, True),
        (False, False, True, True),
        (False, False, False, True),
        (False, False, False, False),
    ]
    full = lay_out(table, 300).rows[0]
    assert full.endswith(REASON)
    assert lay_out(table, len(full) - 1).rows[0].endswith("on 4,080 tokens; …")


@pytest.mark.parametrize(("columns", "width"), [("80", 100), ("100", 100), ("120", 120)])
def test_the_width_is_the_terminals_but_at_least_a_hundred(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert table_width() == width
