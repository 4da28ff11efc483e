"""A table fits its terminal, and no figure is lost or shortened for it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pytest_quantgate.reports.blocks import (
    Column,
    Paragraph,
    Row,
    Table,
    code,
    plain,
    row,
    strong,
    words,
)
from pytest_quantgate.reports.run_tables import run_tables
from pytest_quantgate.reports.text import WIDTH, fit, terminal_width, text
from pytest_quantgate.reports.words import shortened
from tests.reports.test_report import cell, divergence, record

REASON = "PPL identical to the baseline's; mean KLD within 1; size as it was"
SPEEDS = ("1,234.5 (1.21× [1.18, 1.24])", "98.76 (0.98× [0.95, 1.01])", "1,234.5")


def usual(reason: str = REASON) -> Table:
    """Return a table of a model with a long reason in each row."""
    cells = [
        cell(name, about, 13_842.8, reason=reason, divergence=divergence(0.0402))
        for name, about in (("F16", 20.0), ("Q4_K_M", 21.5), ("MXFP4_MOE", 30.0))
    ]
    (table,) = run_tables(record(*cells))
    return table


def with_speed(table: Table) -> Table:
    """Return the table with columns of speed and memory."""
    extra = [
        Column(heading=heading, drop=9, is_below=True)
        for heading in ("pp512 t/s [95 %]", "tg128 t/s [95 %]", "peak MB")
    ]
    return replace(
        table,
        columns=(*table.columns[:-2], *extra, *table.columns[-2:]),
        rows=tuple(
            replace(line, cells=(*line.cells[:-2], *SPEEDS, *line.cells[-2:]))
            for line in table.rows
        ),
    )


def with_matrix(table: Table) -> Table:
    """Return the table with names of formats and their importance matrix."""
    return replace(
        table,
        rows=tuple(
            replace(line, cells=(f"{plain(line.cells[0])}-calibration", *line.cells[1:]))
            for line in table.rows
        ),
    )


TABLES = {
    "usual": usual(),
    "speed": with_speed(usual()),
    "matrix": with_matrix(usual()),
    "speed and matrix": with_speed(with_matrix(usual())),
}


@pytest.mark.parametrize("width", [80, 90, 100, 120, 160, 200, 300])
@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_line_fits_and_no_number_is_shortened(table: Table, width: int) -> None:
    lines = text([table], width).splitlines()
    assert max(map(len, lines)) <= width
    shown, below = fit(table, width)
    kept = {
        plain(text) for part in (shown, below) if part for line in part.rows for text in line.cells
    }
    whole = {plain(text) for line in table.rows for text in line.cells[:-1]}
    left_out = {"bits/w": 2, "same top": 6}
    headings = {column.heading.replace("\n", " ") for column in shown.columns}
    for heading, place in left_out.items():
        if heading not in headings:
            whole -= {plain(line.cells[place]) for line in table.rows}
    assert whole <= kept
    printed = re.sub(r"\s+", " ", "\n".join(lines))
    for value in whole - {plain(line.cells[0]) for line in table.rows}:
        assert re.sub(r"\s+", " ", value) in printed


def test_eighty_columns_are_the_default_and_hold_the_main_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal_width() == WIDTH == 80
    shown, below = fit(with_matrix(usual()), WIDTH)
    headings = [column.heading.replace("\n", " ") for column in shown.columns]
    assert headings == ["format", "size MB", "PPL", "ΔPPL [95 %]", "KLD", "verdict"]
    assert below is None


def test_what_gives_way_gives_way_in_order() -> None:
    """Other measurements' place, the reason, bits per weight, the share of top tokens."""
    table = with_speed(usual())

    def left_out(width: int) -> tuple[str, ...]:
        headings = {column.heading.replace("\n", " ") for column in fit(table, width)[0].columns}
        names = ("peak MB", "why", "bits/w", "same top")
        return tuple(name for name in names if name not in headings)

    steps = list(dict.fromkeys(left_out(width) for width in range(300, 40, -1)))
    assert steps == [
        (),
        ("peak MB",),
        ("peak MB", "why"),
        ("peak MB", "why", "bits/w"),
        ("peak MB", "why", "bits/w", "same top"),
    ]


def test_a_reason_is_shortened_before_it_is_left_out() -> None:
    full = len(max(text([usual()], 300).splitlines(), key=len))
    assert REASON in text([usual()], full)
    assert "PPL identical to the baseline's; mean KLD within 1; …" in text([usual()], full - 1)


def test_names_take_several_lines_where_nothing_else_gives_way() -> None:
    names = "1 thread, n_ubatch 256, n_ubatch 64, n_batch 256, not repacked"
    table = Table(columns=(words("setting"), Column(heading="PPL")), rows=(row(names, "29.2477"),))
    lines = text([table], 40).splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= 40
    assert lines[1].endswith("29.2477")
    assert " ".join(line.removesuffix("29.2477").strip() for line in lines[1:]) == names


def test_a_terminal_gets_styles_and_never_markup_or_control_characters() -> None:
    table = Table(
        columns=(words("cell"), words("verdict")),
        rows=(Row(cells=((code("a`[red]\x1b[31m"),), (strong("CRASHED"),)), is_red=True),),
        notes=(("see ", code("b\nc")),),
    )
    bare = text([table], 80)
    assert "\x1b" not in bare
    assert "a`[red] [31m" in bare
    assert "note: see b c\n" in bare
    coloured = text([table], 80, colour=True)
    assert "\x1b[31m" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == bare


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (100, REASON),
        (len(REASON), REASON),
        (len(REASON) - 1, "PPL identical to the baseline's; mean KLD within 1; …"),
        (34, "PPL identical to the baseline's; …"),
        (33, "PPL identical to the baseline's;…"),
        (20, "PPL identical to…"),
        (14, "PPL identical…"),
        (3, "PP…"),
    ],
)
def test_a_reason_is_shortened_by_its_clauses(width: int, expected: str) -> None:
    assert shortened(REASON, width) == expected
    assert len(expected) <= width


def test_a_percentage_stays_on_one_line() -> None:
    for start in range(70, 82):
        printed = text([Paragraph(text="x" * start + " +59.65 % and more")])
        assert "+59.65 %" in printed
