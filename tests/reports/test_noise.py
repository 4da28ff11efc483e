"""The calibration's tables, made from the run record alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_quantgate.engines.conditions import OWN, Setting
from pytest_quantgate.reports.noise import NoiseTable, noise_tables, noise_text_lines
from pytest_quantgate.reports.table import make_tables, markdown
from pytest_quantgate.reports.write import write_report
from pytest_quantgate.results.measurements.noise import NoiseMeasurement, SettingScores
from pytest_quantgate.results.record import RunRecord, read_record
from pytest_quantgate.results.verdicts import Judgement, VerdictKind
from tests.reports.test_report import cell

USUAL = Setting(n_threads=2, n_batch=512, n_ubatch=512)


def setting(name: str, ppl: float, rms: float, changed: int) -> SettingScores:
    """Return one setting's figures."""
    return SettingScores(
        name=name,
        setting=USUAL,
        ppl=ppl,
        mean_kld_nats=0.05 + rms,
        tokens_changed=changed,
        top_tokens_changed=0,
        largest_nats=rms,
        rms_nats=rms,
    )


def calibrated() -> RunRecord:
    """Return a run of one calibrated cell with an outlier, a failure and a warning."""
    noise = NoiseMeasurement(
        chunks=2,
        tokens=510,
        centre=OWN,
        settings=(
            setting(OWN, 10.0, 0.0, 0),
            setting("1 thread", 10.0, 0.0, 0),
            setting("n_ubatch 256", 10.01, 0.02, 500),
            setting("not repacked", 12.0, 0.9, 510),
            SettingScores(name="n_batch 256", setting=USUAL, problem="SIGABRT", is_fault=True),
            replace(setting("nan", math.nan, math.nan, 510), mean_kld_nats=math.nan),
        ),
    )
    warning = Judgement(
        metric="noise",
        against="ppl_vs_baseline",
        verdict=VerdictKind.PASS,
        reason="warning: the limit is low",
        estimate=0.003,
        limit=0.0025,
    )
    record = replace(
        cell("Q4_0", 10.0, 5.0), ppl=None, measured={"noise": noise}, judgements=(warning,)
    )
    return RunRecord(
        profile="p",
        gated=False,
        settings={},
        engine={},
        cells=(record, cell("Q8_0", 9.0, 9.0)),
        started="2026-01-01T00:00:00+00:00",
        seconds_s=1.0,
    )


def test_a_table_shows_each_setting_and_marks_the_outliers(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_report(path, calibrated())
    (table,) = noise_tables(read_record(path))
    assert table.title == "m on cpu, text t, 2 chunks, 510 tokens"
    assert [row[1] for row in table.rows] == [
        OWN,
        "1 thread",
        "n_ubatch 256",
        "not repacked",
        "n_batch 256",
        "nan",
        "largest shift",
    ]
    assert table.rows[1][3] == "identical"
    assert table.rows[2][3] == "+0.1000 %"
    assert [row[8] for row in table.rows] == ["", "", "", "OUTLIER", "OUTLIER", "OUTLIER", ""]
    assert table.red_rows == {3, 4, 5}
    assert table.rows[6][3] == "0.1000 %", "outliers are no noise"
    lines = noise_text_lines(table, 200)
    assert lines[-1] == "warning: Q4_0: the limit is low"
    assert len(lines) == 2 + len(table.rows) + 1


def test_a_calibrated_cell_is_in_no_table_of_formats() -> None:
    record = calibrated()
    (table,) = make_tables(record)
    assert [row.cell.format for row in table.rows] == ["Q8_0"]
    text = markdown(record)
    assert "## Settings noise: m on cpu, text t, 2 chunks, 510 tokens" in text
    assert "- warning: Q4_0: the limit is low" in text


@pytest.mark.parametrize("width", [100, 120, 160])
def test_names_of_settings_take_several_lines_where_they_do_not_fit(width: int) -> None:
    names = "1 thread, n_ubatch 256, n_ubatch 64, n_batch 256, not repacked"
    figures = ("29.2477", "identical", "0.04028", "identical", "0", "0", "")
    table = NoiseTable(
        title="m",
        rows=(("Q4_K_M", OWN, *figures), ("", names, *figures)),
        red_rows=frozenset(),
        notes=(),
    )
    _, heading, first, second = noise_text_lines(table, width)
    lines = [heading, first, *second.splitlines()]
    assert max(map(len, lines)) <= width
    assert (len(second.splitlines()) == 1) == (width == 160)
    column = heading.index("setting")
    assert {line[:column].strip() for line in second.splitlines()} == {""}
    told = " ".join(line[column:] for line in second.splitlines())
    for word in (*names.replace(",", "").split(), *filter(None, figures)):
        assert word in told
