"""The run record, and the table made from it alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_quantgate.reports.blocks import Row, plain
from pytest_quantgate.reports.run_tables import FAULT_DETECTOR, run_tables
from pytest_quantgate.reports.write import run_markdown, write_report
from pytest_quantgate.results.chunk_table import ChunkTable, Shift
from pytest_quantgate.results.measurements.divergence import DivergenceMeasurement, Part
from pytest_quantgate.results.record import CellRecord, RunRecord, to_plain
from pytest_quantgate.results.record_file import cell_from_plain, read_record
from pytest_quantgate.results.verdicts import (
    Against,
    Cause,
    CauseKind,
    Judgement,
    Reason,
    Stated,
    VerdictKind,
)

CAUSE = Cause(kind=CauseKind.QUANTIZER, evidence=("x",))
TOKENS = 100


def divergence(nats: float) -> DivergenceMeasurement:
    """Return a divergence of so many nats a token, twice as many for code."""
    return DivergenceMeasurement(
        tokens=100,
        mean_kld_nats=nats,
        mean_kld_error_nats=0.0,
        max_kld_nats=1.0,
        min_kld_nats=0.0,
        kld_percentiles_nats={},
        mean_delta_p=0.0,
        rms_delta_p=0.0,
        delta_p_percentiles={},
        same_top=1.0,
        same_top_error=0.0,
        by_confidence=(),
        by_domain=(Part(name="code", tokens=50, mean_kld_nats=2 * nats, same_top=1.0),),
    )


def cell(name: str, about: float, megabytes: float, **changes: object) -> CellRecord:
    """Return a measured cell of 16 chunks, each with the perplexity give or take a little."""
    sums = tuple(TOKENS * (math.log(about) + 0.001 * math.sin(n)) for n in range(16))
    usual = CellRecord(
        id=f"m-{name}-cpu",
        model="m",
        format=name,
        imatrix=None,
        device="cpu",
        engine="default",
        text="t",
        is_reference=name == "F16",
        reference="F16",
        is_requantized=False,
        is_miniature=False,
        verdict="PASS",
        reason="within",
        file_bytes=int(megabytes * 1e6),
        bits_per_weight=4.5,
        ppl=about,
        chunks=ChunkTable(
            index=tuple(range(16)),
            tokens=(TOKENS,) * 16,
            nll_sum_nats=sums,
            token_ids=("0" * 16,) * 16,
            document=tuple(range(16)),
        ),
        tensor_data_sha256=name,
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def record(*cells: CellRecord) -> RunRecord:
    """Return a run's record."""
    return RunRecord(
        profile="p",
        gated=True,
        settings={},
        engine={"version": "1", "kind": "e", "cpu_name": "c"},
        cells=cells,
        started="2026-01-01T00:00:00+00:00",
        seconds_s=12.0,
    )


def texts(row: Row) -> list[str]:
    """Return the texts of a row's cells."""
    return [plain(text) for text in row.cells]


def test_the_largest_comes_first() -> None:
    (table,) = run_tables(record(cell("Q2_K", 30, 1), cell("F16", 20, 9), cell("Q8_0", 21, 5)))
    assert [texts(row)[0] for row in table.rows] == ["F16", "Q8_0", "Q2_K"]
    assert table.caveat == ""
    assert texts(table.rows[0])[4] == "reference"


def test_what_could_not_be_measured_comes_last() -> None:
    crashed = cell(
        "Q4_0",
        1,
        1,
        ppl=None,
        file_bytes=None,
        bits_per_weight=None,
        chunks=ChunkTable(),
        tensor_data_sha256=None,
        verdict="CRASHED",
        reason="the worker died: killed by SIGABRT.\nGGML_ASSERT",
    )
    (table,) = run_tables(record(crashed, cell("F16", 20, 9)))
    assert [texts(row)[0] for row in table.rows] == ["F16", "Q4_0"]
    assert texts(table.rows[1])[1:4] == ["–", "–", "–"]
    assert table.rows[1].is_red
    assert "\n" not in texts(table.rows[1])[-1]


def test_larger_and_worse_is_said_of_models_from_full_precision_only() -> None:
    worse, better = cell("Q5_0", 25, 6), cell("Q4_K_M", 21, 5)
    (table,) = run_tables(record(worse, better))
    assert [texts(row)[0] for row in table.rows] == ["Q5_0 †", "Q4_K_M"]
    assert table.notes == ("† larger and worse than another beyond chance: Q5_0 (Q4_K_M)",)
    (table,) = run_tables(
        record(replace(worse, is_requantized=True), replace(better, is_requantized=True))
    )
    assert table.caveat == FAULT_DETECTOR
    assert table.notes == ()
    (table,) = run_tables(
        record(replace(worse, is_miniature=True), replace(better, is_miniature=True))
    )
    assert table.caveat == FAULT_DETECTOR
    assert table.notes == ()


def test_cells_are_compared_on_their_common_chunks() -> None:
    """A cell that stopped early has no perplexity of other chunks beside it."""
    early = cell("Q8_0", 20, 5)
    early = replace(early, chunks=early.chunks.first(4))
    full = cell("F16", 20, 9)
    (table,) = run_tables(record(early, full))
    assert "4 common chunks" in table.title
    assert texts(table.rows[0])[3] == texts(table.rows[1])[3]


def test_equal_tensors_are_said_aloud() -> None:
    (table,) = run_tables(
        record(cell("Q8_0", 20, 5), cell("MXFP4_MOE", 20, 5, tensor_data_sha256="Q8_0"))
    )
    assert "MXFP4_MOE has the same tensors, byte for byte, as Q8_0" in table.notes


def test_models_texts_and_devices_have_tables_of_their_own() -> None:
    tables = run_tables(
        record(cell("F16", 20, 9), cell("F16", 20, 9, model="n"), cell("F16", 20, 9, text="u"))
    )
    assert [table.title.split(",")[0] for table in tables] == ["m on cpu", "n on cpu", "m on cpu"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_record_with_what_is_not_finite_survives_its_json(value: float) -> None:
    odd = cell(
        "Q4_0",
        20,
        5,
        ppl=value,
        chunks=cell("x", 1, 1).chunks.replace(nll_sum_nats=(value,) * 16),
        verdict="INVALID",
        ppl_by_domain={"code": value},
        ppl_vs_reference=Shift(
            change=value,
            low=-math.inf,
            high=value,
            chunks=1,
            chunks_changed=1,
            of_documents=True,
            clusters=1,
            tokens=1,
            tokens_changed=1,
        ),
        judgements=(
            Judgement(
                metric="perplexity",
                against=Against.LIMIT,
                verdict=VerdictKind.INVALID,
                reason=Reason((Stated("r"),)),
                estimate=value,
            ),
        ),
    )
    text = json.dumps(to_plain(odd), allow_nan=False)
    again = cell_from_plain(json.loads(text))
    assert repr(again) == repr(odd)
    run_tables(record(again, cell("F16", 20, 9)))


def test_reports_are_written_by_their_ending(tmp_path: Path) -> None:
    red = cell("Q4_0", 20, 5, verdict="REGRESSED", reason="a | b", cause=CAUSE)
    made = record(cell("F16", 20, 9), red)
    write_report(tmp_path / "r.json", made)
    raw = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert raw["version"] == 2
    assert list(raw) == sorted(raw)
    write_report(tmp_path / "r.md", made)
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert text == run_markdown(made)
    assert "# Quantization gate: 1 of 2 cells red" in text
    assert "a \\| b" in text
    assert "  - cause: quantizer\n" in text
    assert "<summary>Evidence</summary>\n\n- **m-Q4_0-cpu** x\n" in text


def test_accepted_baselines_stand_in_the_report_and_are_not_red() -> None:
    made = record(cell("Q4_0", 20, 5, verdict="REGRESSED", accepted="PPL 1 → 2"))
    text = run_markdown(made)
    assert "all green" in text
    assert "- **m-Q4_0-cpu** PPL 1 → 2" in text


def test_a_record_of_before_two_engines_were_compared_is_read(tmp_path: Path) -> None:
    made = record(cell("F16", 20, 9))
    plain = to_plain(made)
    new_of_run, new_of_cell = ("against", "others", "command"), ("key", "made_by", "tensors")
    plain = {name: value for name, value in plain.items() if name not in new_of_run}
    plain["cells"] = [
        {name: value for name, value in item.items() if name not in new_of_cell}
        for item in plain["cells"]
    ]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(plain), encoding="utf-8")
    assert read_record(path) == made


def test_a_record_of_version_1_is_read(tmp_path: Path) -> None:
    """Version 1 kept the columns of the chunks apart."""
    made = record(cell("F16", 20, 9))
    plain = to_plain(made) | {"version": 1}
    for item in plain["cells"]:
        columns = item.pop("chunks")
        item.update({"chunks": 16, "tokens": 16 * TOKENS, "is_exact": False})
        item.update({"chunk_indices": columns["index"], "chunk_tokens": columns["tokens"]})
        item.update({"chunk_nll_sum_nats": columns["nll_sum_nats"]})
        item.update(
            {"chunk_documents": columns["document"], "chunk_token_ids": columns["token_ids"]}
        )
    path = tmp_path / "version-1.json"
    path.write_text(json.dumps(plain), encoding="utf-8")
    assert read_record(path) == made


def test_a_note_that_several_cells_have_is_written_once() -> None:
    cells = [cell(name, 10.0, 5.0, notes=("one thing",)) for name in ("A", "B", "C", "D", "E")]
    cells[1] = replace(cells[1], notes=("another", "one thing"))
    (table,) = run_tables(record(*cells))
    assert table.notes == ("A, B, C and 2 more: one thing", "B: another")


def test_every_figure_is_of_the_common_chunks_and_recomputed_from_the_record() -> None:
    """The reference stopped at 8 chunks, the format went on to 16, where all is worse."""
    ended = tuple("first" if n < 8 else "second" for n in range(16))
    base = cell("F16", 20, 9).chunks
    worse = [nats + (20.0 if n >= 8 else 0.0) for n, nats in enumerate(base.nll_sum_nats)]
    chunks = base.replace(
        nll_sum_nats=worse,
        domain=ended,
        kld_sum_nats=[1.0] * 8 + [50.0] * 8,
        same_top=[90] * 8 + [10] * 8,
    )
    reference = replace(cell("F16", 20, 9), chunks=base.replace(domain=ended).first(8))
    went_on = replace(
        cell("Q4_K_M", 22, 5),
        chunks=chunks,
        divergence=divergence(0.255),
        ppl_by_domain={"first": 20.0, "second": 24.4},
        ppl_vs_reference=Shift(
            change=0.1,
            low=0.05,
            high=0.15,
            chunks=16,
            chunks_changed=8,
            of_documents=True,
            clusters=16,
            tokens=1600,
        ),
    )
    made = record(reference, went_on)
    (table,) = run_tables(made)
    first, second = map(texts, table.rows)
    assert first[3] == second[3], "PPL"
    assert second[4] == "+0.00 % [+0.00, +0.00]"
    assert second[5:7] == ["0.0100", "90.0 %"], "KLD, same top"
    alone = replace(went_on, is_reference=False)
    (table,) = run_tables(record(replace(alone, chunks=chunks.first(8)), replace(alone, id="b")))
    assert texts(table.rows[0])[4] == "–", "a stored change of other chunks stands nowhere"


def test_what_was_not_gated_is_no_green() -> None:
    measured = cell("Q4_0", 20, 5, verdict="MEASURED")
    assert run_markdown(record(measured)).startswith(
        "# Quantization gate: nothing was gated (1 cell without a comparison)\n"
    )
    both = run_markdown(record(measured, cell("F16", 20, 9)))
    assert both.startswith("# Quantization gate: 1 of 2 cells gated, all green\n")


def test_a_red_cell_stands_first_with_what_to_do_next() -> None:
    short = cell(
        "Q4_0",
        20,
        5,
        verdict="INCONCLUSIVE",
        judgements=(
            Judgement(
                metric="perplexity",
                against=Against.BASELINE,
                verdict=VerdictKind.INCONCLUSIVE,
                reason=Reason((Stated("r"),)),
                more_chunks=18,
            ),
        ),
    )
    text = run_markdown(record(cell("F16", 20, 9), short))
    assert text.index("## What is red") < text.index("| format |")
    assert "  - Next: measure more: `baseline_chunks = 34` in the profile\n" in text


@pytest.mark.parametrize(
    ("in_text", "step"),
    [
        (16, "the text ends here: add another to `texts`, or widen the limit"),
        (
            20,
            "measure more: `baseline_chunks = 20` in the profile; about 34 would decide: add"
            " another text to `texts`",
        ),
    ],
)
def test_what_the_text_cannot_decide_another_one_may(in_text: int, step: str) -> None:
    judgement = Judgement(
        metric="perplexity",
        against=Against.BASELINE,
        verdict=VerdictKind.INCONCLUSIVE,
        reason=Reason((Stated("r"),)),
        more_chunks=18,
    )
    short = cell("Q4_0", 20, 5, verdict="INCONCLUSIVE", judgements=(judgement,))
    text = run_markdown(record(cell("F16", 20, 9), replace(short, n_chunks_in_text=in_text)))
    assert f"  - Next: {step}\n" in text


def test_a_table_in_markdown_has_short_reasons() -> None:
    reason = "PPL identical to the baseline's; mean KLD within 1; size as it was"
    line = next(
        line
        for line in run_markdown(record(cell("F16", 20, 9, reason=reason))).splitlines()
        if line.startswith("| F16")
    )
    assert line.endswith("| PPL identical to the baseline's; mean KLD within 1; … |")
