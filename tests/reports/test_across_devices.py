"""One model on several devices, side by side."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pytest_quantgate.reports.across_devices import device_tables
from pytest_quantgate.reports.blocks import plain
from pytest_quantgate.reports.html.page import run_html
from pytest_quantgate.reports.run_report import run_blocks
from pytest_quantgate.reports.write import terminal_blocks
from pytest_quantgate.results.record import CellRecord
from tests.reports.test_report import cell, divergence, record


def on(device: str, name: str, factor: float = 1.0, **changes: object) -> CellRecord:
    """Return a cell of a device whose perplexity is so many times another's."""
    made = cell(name, {"F16": 20, "Q4_0": 22}[name], {"F16": 9, "Q4_0": 3}[name], device=device)
    sums = [n + t * math.log(factor) for n, t in zip(
        made.chunks.nll_sum_nats, made.chunks.tokens, strict=True
    )]  # fmt: skip
    chunks = made.chunks.replace(nll_sum_nats=sums)
    return replace(made, id=f"m-{name}-{device}", chunks=chunks, **changes)  # type: ignore[arg-type]


def both(factor: float, **changes: object) -> tuple[CellRecord, ...]:
    """Return two cells each of two devices; the second's control is so many times the first's."""
    return (
        on("cpu", "F16"),
        on("cpu", "Q4_0", divergence=divergence(0.05)),
        on("p40", "F16", factor, **changes),
        on("p40", "Q4_0", factor, divergence=divergence(0.06)),
    )


def test_quality_stands_side_by_side_in_all_reports() -> None:
    run = record(*both(1.0))
    (table,) = device_tables(run)
    assert table.title == "m: quality by device"
    assert [column.heading for column in table.columns] == [
        "format", "PPL cpu", "PPL p40", "KLD cpu", "KLD p40",
    ]  # fmt: skip
    first, second = ([plain(text) for text in row.cells] for row in table.rows)
    assert first[0] == "F16"
    assert first[1] == first[2]
    assert second[3:] == ["0.0500", "0.0600"]
    assert table in terminal_blocks(run)
    assert table in run_blocks(run)
    page = run_html(run)
    assert "m: quality by device" in page
    assert "F16 is identical on p40 and cpu" in page


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (1.0, "F16 is identical on p40 and cpu (1,600 tokens): figures compare"),
        (1.001, "F16 is +0.100 % on p40 of what it is on cpu, rounding: figures compare within"),
        (0.9, "on cpu, more than rounding (0.25 %): compare figures within a device only"),
    ],
)
def test_the_control_tells_whether_figures_compare(factor: float, said: str) -> None:
    (table,) = device_tables(record(*both(factor)))
    (note,) = table.notes
    assert said in plain(note)


@pytest.mark.parametrize("changes", [{"tensor_data_sha256": "other"}, {"ppl": None}])
def test_another_file_or_none_is_no_control(changes: dict[str, object]) -> None:
    (table,) = device_tables(record(*both(1.0, **changes)))
    assert "not known whether their figures compare" in plain(table.notes[0])


def test_one_device_has_no_such_table() -> None:
    assert device_tables(record(on("cpu", "F16"), on("cpu", "Q4_0"))) == ()
