"""The calibration's tables, made from the run record alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from pytest_quantgate.engines.conditions import OWN, Conditions
from pytest_quantgate.reports.blocks import plain
from pytest_quantgate.reports.noise import noise_tables
from pytest_quantgate.reports.run_tables import run_tables
from pytest_quantgate.reports.text import text
from pytest_quantgate.reports.write import run_markdown, write_report
from pytest_quantgate.results.measurements.noise import NoiseMeasurement, SettingScores
from pytest_quantgate.results.record import RunRecord
from pytest_quantgate.results.record_file import read_record
from pytest_quantgate.results.verdicts import Against, Judgement, Reason, Stated, VerdictKind
from tests.reports.test_report import cell

USUAL = Conditions(n_threads=2, n_batch=512, n_ubatch=512)


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
        against=Against.NOISE,
        verdict=VerdictKind.PASS,
        reason=Reason((Stated("the limit is low"),)),
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
    assert table.title == "Settings noise: m on cpu, text t, 2 chunks, 510 tokens"
    rows = [[plain(text) for text in row.cells] for row in table.rows]
    assert [row[1] for row in rows] == [
        OWN,
        "1 thread",
        "n_ubatch 256",
        "not repacked",
        "n_batch 256",
        "nan",
        "largest shift",
    ]
    assert rows[1][3] == "identical"
    assert rows[2][3] == "+0.1000 %"
    assert [row[8] for row in rows] == ["", "", "", "OUTLIER", "OUTLIER", "OUTLIER", ""]
    assert [n for n, row in enumerate(table.rows) if row.is_red] == [3, 4, 5]
    assert rows[6][3] == "0.1000 %", "outliers are no noise"
    lines = text([table], 200).splitlines()
    assert lines[-1] == "warning: Q4_0: the limit is low"
    assert len(lines) == 2 + len(table.rows) + 1


def test_a_calibrated_cell_is_in_no_table_of_formats() -> None:
    record = calibrated()
    (table,) = run_tables(record)
    assert [row.cells[0] for row in table.rows] == ["Q8_0"]
    text = run_markdown(record)
    assert "## Settings noise: m on cpu, text t, 2 chunks, 510 tokens" in text
    assert "- warning: Q4_0: the limit is low" in text
