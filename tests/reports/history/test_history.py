"""Histories of run records: the planted change is found, with what changed beside it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import NotRequired

import numpy as np
import pytest
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from pytest_quantgate.reports.history.exports import Export, export
from pytest_quantgate.reports.history.report import headline, history_blocks
from pytest_quantgate.reports.history.series import Direction, History, Series
from pytest_quantgate.reports.history.sources import history_of_records, read_records
from pytest_quantgate.reports.history.sparkline import sparkline
from pytest_quantgate.reports.html.history_page import history_html
from pytest_quantgate.reports.text import text
from pytest_quantgate.results.chunk_table import ChunkTable
from pytest_quantgate.results.record import CellRecord, RunRecord
from tests.gate.compare.test_costs import speed
from tests.reports.test_report import cell, divergence, record

TENSORS = {"output.weight": "F16:00000000"}


class Measure(TypedDict):
    """A measure of Bencher Metric Format, as its reference's schema has it."""

    value: float
    lower_value: NotRequired[float]
    upper_value: NotRequired[float]


def day(n: int) -> str:
    return f"2026-02-{1 + n:02}T10:00:00+00:00"


def scaled(item: CellRecord, factor: float, **changes: object) -> CellRecord:
    """Return a cell whose perplexity is so many times as much in each chunk."""
    assert item.ppl is not None
    sums = [
        n + t * math.log(factor)
        for n, t in zip(item.chunks.nll_sum_nats, item.chunks.tokens, strict=True)
    ]
    chunks = item.chunks.replace(nll_sum_nats=sums)
    return replace(item, ppl=chunks.perplexity, chunks=chunks, **changes)  # type: ignore[arg-type]


def runs(n: int, place: int, seed: int, factor: float = 1.01) -> dict[str, RunRecord]:
    """Return records of three cells that scatter; one of them is worse from a place on."""
    random = np.random.default_rng(seed)
    records = {}
    for number in range(n):
        cells = [cell("F16", 20, 9), cell("Q8_0", 20.1, 5), cell("Q4_0", 21, 3)]
        jitter = 1 + 2e-5 * random.standard_normal(3)
        cells = [scaled(c, f, tensors=TENSORS) for c, f in zip(cells, jitter, strict=True)]
        if number >= place:
            cells[2] = scaled(cells[2], factor, tensors={"output.weight": "F16:11111111"})
        times_ns = 1e8 * np.exp(0.03 * random.standard_normal(3))
        cells = [
            replace(item, measured={"speed": speed(int(time_ns))})
            for item, time_ns in zip(cells, times_ns, strict=True)
        ]
        records[f"run-{number}"] = replace(record(*cells), started=day(number))
    return records


def of(history: History, cell_id: str, title: str) -> Series:
    (series,) = (s for s in history.series if (s.cell, s.name.title) == (cell_id, title))
    return series


@pytest.mark.parametrize("seed", range(8))
def test_of_thirty_records_the_planted_change_is_found_and_no_other(seed: int) -> None:
    place = 3 + 3 * seed
    history = history_of_records(runs(30, place, seed))
    (series,) = history.changed
    (change,) = series.changes
    assert (series.cell, series.name.title, change.place) == ("m-Q4_0-cpu", "PPL", place)
    assert change.direction is Direction.WORSE
    assert change.at.version.name == f"run-{place}"
    assert change.difference.startswith("+1.0")
    assert change.why == ("cause: 1 of 1 tensors changed bytes at equal type (output)",)
    assert headline(history) == "1 of 3 cells changed level: 1 figure, 1 for the worse"


def test_what_five_real_releases_changed() -> None:
    """Q6_K's AVX2 product was rewritten after 0.3.20; 0.3.36 computes some products in tiles.

    The records are of llama-cpp-python 0.3.20 to 0.3.36 built alike, shortened to four cells.
    """
    records, left_out = read_records([Path(__file__).parent / "releases"])
    assert not left_out
    history = history_of_records(records)
    found = {
        (series.cell, series.name.title, change.at.version.name): change.direction
        for series in history.changed
        for change in series.changes
    }
    assert found == {
        ("lfm2moe-mini-Q6_K-cpu", "PPL", "0.3.26"): Direction.UNCLEAR,
        ("olmoe-mini-IQ4_NL-cpu", "PPL", "0.3.36"): Direction.UNCLEAR,
    }


def test_five_records_are_enough_for_a_deterministic_figure() -> None:
    history = history_of_records(runs(5, 3, seed=0))
    assert [(s.cell, s.changes[0].place) for s in history.changed] == [("m-Q4_0-cpu", 3)]


def test_the_order_is_that_of_the_runs_and_not_of_their_names() -> None:
    records = runs(5, 3, seed=0)
    shuffled = {name: records[name] for name in ("run-4", "run-0", "run-3", "run-1", "run-2")}
    assert [v.name for v in history_of_records(shuffled).versions] == [f"run-{n}" for n in range(5)]


def test_figures_are_of_the_chunks_that_all_versions_have() -> None:
    """An early look in one run must not look like a change."""
    whole = cell("Q4_0", 21, 3)
    sums = [nats + n for n, nats in enumerate(whole.chunks.nll_sum_nats)]
    chunks = whole.chunks.replace(nll_sum_nats=sums)
    whole = replace(whole, chunks=chunks, ppl=chunks.perplexity)
    early = replace(whole, chunks=chunks.first(8), ppl=chunks.first(8).perplexity)
    records = {
        str(n): replace(record(early if n == 2 else whole), started=day(n)) for n in range(6)
    }
    series = of(history_of_records(records), "m-Q4_0-cpu", "PPL")
    assert series.chunks == 8
    assert set(series.values) == {early.ppl}


def test_a_text_or_settings_of_their_own_are_a_series_of_their_own() -> None:
    records = {
        str(n): replace(
            record(replace(cell("Q4_0", 21 + n // 2, 3), text_sha256=str(n // 2))), started=day(n)
        )
        for n in range(4)
    }
    history = history_of_records(records)
    assert not history.changed
    assert len([s for s in history.series if s.name.title == "PPL"]) == 2


def test_a_crashed_version_is_a_gap() -> None:
    records = runs(6, 9, seed=0)
    crashed = replace(
        records["run-2"].cells[2], ppl=None, chunks=ChunkTable(), verdict="CRASHED", measured={}
    )
    records["run-2"] = replace(records["run-2"], cells=(*records["run-2"].cells[:2], crashed))
    series = of(history_of_records(records), "m-Q4_0-cpu", "PPL")
    assert len(series.points) == 5


def test_the_terminal_fits_80_columns_and_names_cause_and_run() -> None:
    lines = text(history_blocks(history_of_records(runs(20, 12, seed=0))), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "m-Q4_0-cpu at run-12 (2026-02-13 10:00)" in lines
    (line,) = (line for line in lines if line.startswith("m-Q4_0-cpu  "))
    assert line.split() == [
        "m-Q4_0-cpu",
        "PPL",
        10 * "▁" + 6 * "█",
        "21.0028",
        "21.2132",
        "+1.00",
        "%",
    ]


def test_the_page_escapes_what_it_is_given() -> None:
    hostile = "<img src=x onerror=alert(1)>"
    records = {
        str(n): replace(record(replace(cell("Q4_0", 21 + (n > 2), 3), id=hostile)), started=day(n))
        for n in range(6)
    }
    page = history_html(history_of_records(records, warnings=[hostile]))
    assert "<img" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 3


def test_bencher_takes_the_newest_run() -> None:
    made = json.loads(export(history_of_records(runs(5, 3, seed=0)), Export.BENCHER))
    TypeAdapter(dict[str, dict[str, Measure]]).validate_python(made, strict=True)
    assert set(made) == {"m-F16-cpu", "m-Q8_0-cpu", "m-Q4_0-cpu"}
    measures = made["m-Q4_0-cpu"]
    assert set(measures) == {"perplexity", "file-size", "pp512", "tg128"}
    assert 21.1 < measures["perplexity"]["value"] < 21.3
    for measure in ("perplexity", "pp512"):
        bounds = measures[measure]
        assert bounds["lower_value"] < bounds["value"] < bounds["upper_value"]
    assert measures["file-size"] == {"value": 3_000_000}


def test_github_action_benchmark_gets_a_file_a_direction() -> None:
    history = history_of_records(runs(5, 3, seed=0))
    smaller, bigger = (json.loads(export(history, k)) for k in (Export.SMALLER, Export.BIGGER))
    for entry in (*smaller, *bigger):
        assert isinstance(entry["value"], float | int)
        assert all(isinstance(entry[name], str) for name in ("name", "unit", "extra"))
    assert {e["name"] for e in bigger} == {
        f"m-{name}-cpu: {what}" for name in ("F16", "Q8_0", "Q4_0") for what in ("pp512", "tg128")
    }
    assert {e["unit"] for e in smaller} == {"ppl", "bytes"}


def test_a_divergence_has_its_own_series() -> None:
    records = {
        str(n): replace(
            record(replace(cell("Q4_0", 21, 3), divergence=divergence(0.02 if n < 4 else 0.03))),
            started=day(n),
        )
        for n in range(8)
    }
    (series,) = history_of_records(records).changed
    assert (series.name.title, series.changes[0].place) == ("mean KLD", 4)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([1.0, 1.0, 1.0], "▄▄▄"),
        ([1.0, 1.0001, 1.0], "▄▄▄"),
        ([1.0, 2.0, 3.0], "▁▅█"),
        ([1.0] * 20 + [2.0] * 20, "▁▁▁▁▁█████"),
    ],
)
def test_sparklines(values: list[float], line: str) -> None:
    assert sparkline(values, floor=1e-4, width=10) == line
