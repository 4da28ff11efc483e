"""The report of an upgrade, made from the run record alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.cli.main import main
from pytest_quantgate.gate.compare.comparison import Comparison, compare_engines, compare_records
from pytest_quantgate.reports.blocks import Table, plain
from pytest_quantgate.reports.markdown import markdown
from pytest_quantgate.reports.text import fit
from pytest_quantgate.reports.text import text as terminal
from pytest_quantgate.reports.upgrade.facts import limits_text
from pytest_quantgate.reports.upgrade.report import (
    MOST_ROWS,
    brief_blocks,
    headline,
    title,
    upgrade_blocks,
)
from pytest_quantgate.reports.write import MOST_CHARACTERS, run_markdown, write_report
from pytest_quantgate.results.chunk_table import ChunkTable
from pytest_quantgate.results.record import RunRecord
from pytest_quantgate.results.record_file import read_record
from pytest_quantgate.results.verdicts import Cause, CauseKind
from tests.gate.compare.records import OTHER_TYPES, failed, run_of, scored, wobble
from tests.gate.compare.test_changes import corners, with_effects

GOLDEN = Path(__file__).parent / "upgrade.md"


def upgraded() -> RunRecord:
    """Return a run with a bit of everything."""
    new, *crossed = corners(quantizer=0.02, runtime=-0.005)
    new = replace(
        new,
        verdict="REGRESSED",
        reason="PPL +1.51 % [+1.40 %, +1.60 %] against the old engine, limit +0.25 %",
        cause=Cause(kind=CauseKind.QUANTIZER, evidence=("1 of 6 tensors changed type",)),
        file_bytes=6_200_000,
        bytes_by_type={"Q4_K": 6_200_000},
    )
    unknown = {"verdict": "UNSUPPORTED", "reason": "the engine knows no such type\nlog"}
    cells = (
        scored("F16", shift=wobble(1e-7)),
        scored("Q8_0"),
        new,
        scored("Q5_K_M", shift=wobble(2e-4)),
        failed("MXFP4_MOE", verdict="CRASHED", reason="killed by SIGABRT\nGGML_ASSERT(a | b)"),
        scored("IQ4_XS"),
        failed("Q1_0", **unknown),
        scored("Q2_K"),
    )
    others = (
        scored("F16", engine="old"),
        scored("Q8_0", engine="old"),
        *crossed,
        scored("Q5_K_M", engine="old"),
        scored("MXFP4_MOE", engine="old"),
        failed("IQ4_XS", engine="old", **unknown),
        failed("Q1_0", engine="old", **unknown),
        scored("Q2_K", engine="old"),
    )
    return run_of(*cells, others=others)


def upgraded_markdown(found: Comparison) -> str:
    return markdown(upgrade_blocks(found))


def upgrade_lines(found: Comparison, width: int) -> list[str]:
    return terminal(brief_blocks(found), width).splitlines()


def engines(record: RunRecord) -> Comparison:
    found = compare_engines(record)
    assert found is not None
    return found


def test_the_report_is_the_golden_one(tmp_path: Path) -> None:
    """To accept a change of the report, copy what the assertion shows into upgrade.md."""
    path = tmp_path / "report.md"
    write_report(path, upgraded())
    assert path.read_text(encoding="utf-8") == GOLDEN.read_text(encoding="utf-8")


def test_the_command_writes_the_same_report_from_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    write_report(path, upgraded())
    assert read_record(path) == upgraded()
    assert main(["report", str(path), "--markdown"]) == 0
    assert capsys.readouterr().out == GOLDEN.read_text(encoding="utf-8")
    assert main(["report", str(path)]) == 0
    assert "Upgrade: llama-cpp-python 0.3.30 → 0.3.36\n2 of 8 cells are red" in (
        capsys.readouterr().out
    )


def test_a_terminal_gets_no_markup() -> None:
    text = "\n".join(upgrade_lines(engines(upgraded()), 300))
    assert "`" not in text
    assert "*" not in text


@pytest.mark.parametrize(("width", "left_out"), [(300, 0), (150, 1), (120, 2), (80, 3)])
def test_a_narrow_terminal_does_without_some_columns(width: int, left_out: int) -> None:
    (table,) = (block for block in brief_blocks(engines(upgraded())) if isinstance(block, Table))
    headings = [column.heading.replace("\n", " ") for column in fit(table, width)[0].columns]
    order = ("how sure", "mean KLD, same top", "size")
    assert [name in headings for name in order] == [n >= left_out for n in range(len(order))]
    assert {"cell", "verdict", "ΔPPL [95 %]", "cause"} <= set(headings)
    assert max(map(len, upgrade_lines(engines(upgraded()), width))) <= width


def test_nothing_moved_is_said_plainly() -> None:
    cells = [scored(name) for name in ("F16", "Q8_0")]
    others = [scored(name, engine="old") for name in ("F16", "Q8_0")]
    text = upgraded_markdown(engines(run_of(*cells, others=others)))
    assert "\n**No change: bit-identical on 2 cells, 8,160 tokens.**\n" in text
    assert "What moved" not in text
    assert "- m on cpu, text t: F16, Q8_0: same file, bit-identical on 16 chunks\n" in text


def test_a_shape_is_not_called_bit_identical() -> None:
    """Its bytes are never hashed, and it has no text."""
    old, new = (
        replace(
            scored("Q8_0", engine=engine),
            text="",
            ppl=None,
            divergence=None,
            chunks=ChunkTable(),
            tensors={"blk.*.ffn_down.weight": "0=Q8_0"},
        )
        for engine in ("old", "new")
    )
    text = upgraded_markdown(engines(run_of(new, others=[old])))
    assert "**No change: the same tensors and sizes in 1 cell; no text was scored.**" in text
    assert "- m on cpu: Q8_0: the same tensors and size; no text was scored\n" in text
    assert "identical" not in text


def test_many_red_cells_are_counted() -> None:
    names = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M")
    cells = [scored(name, shift=0.1, verdict="REGRESSED") for name in names]
    found = engines(run_of(*cells, others=[scored(name, engine="old") for name in names]))
    assert plain(headline(found)) == "4 of 4 cells are red: 4 REGRESSED."


def test_many_moves_within_the_limits_are_folded() -> None:
    models = [f"m{number}" for number in range(MOST_ROWS + 3)]
    cells = [scored(model=model, shift=wobble(1e-4)) for model in models]
    others = [scored(model=model, engine="old") for model in models]
    found = engines(run_of(*cells, others=others))
    text = upgraded_markdown(found)
    assert "<summary>3 more moved within the limits, PPL by less than 0.0001 %</summary>" in text
    assert text.count("| `m") == MOST_ROWS + 3
    assert any(
        line.startswith("3 more moved within the limits") for line in upgrade_lines(found, 100)
    )


def test_rounding_does_not_stand_between_what_matters() -> None:
    cells = [scored("Q8_0", shift=wobble(1e-7)), scored("Q4_K_M", shift=wobble(1e-4))]
    others = [scored(name, engine="old") for name in ("Q8_0", "Q4_K_M")]
    found = engines(run_of(*cells, others=others))
    lines = upgrade_lines(found, 200)
    assert [line.split()[0] for line in lines[3:]] == ["m-Q4_K_M-cpu", "1"]
    text = upgraded_markdown(found)
    assert text.index("| `m-Q4_K_M-cpu`") < text.index("<summary>1 more") < text.index("`m-Q8_0-")
    alone = engines(run_of(cells[0], others=others[:1]))
    assert len(upgrade_lines(alone, 200)) == 3, "no table of nothing"


def test_a_file_that_the_other_engine_cannot_read_is_a_matter_of_formats() -> None:
    new, old, on_old, on_new = corners(quantizer=0.01, runtime=0.01)
    lost: dict[str, Any] = {
        "verdict": "UNSUPPORTED",
        "reason": "unknown type\nlog",
        "file_bytes": None,
    }
    new, *others = with_effects(new, old, replace(on_old, **lost), replace(on_new, **lost))
    text = upgraded_markdown(engines(run_of(new, others=others)))
    assert "- `m-Q4_K_M-cpu`: with the new engine's file the old one gave UNSUPPORTED: unk" in text
    assert "- `m-Q4_K_M-cpu`: with the old engine's file the new one gave UNSUPPORTED: unk" in text
    assert "Which half" not in text


def test_a_file_that_grew_around_equal_tensors_did_so_in_its_metadata() -> None:
    new = scored(file_bytes=6_300_100, verdict="PASS")
    text = upgraded_markdown(engines(run_of(new, others=[scored(engine="old")])))
    assert "| +100 bytes (+0.00 %) | bit-identical on 4,080 tokens |" in text
    assert "all tensors are the same: the file has other metadata" in text


def test_a_report_that_is_too_long_for_a_pull_request_has_no_tables_of_all_cells() -> None:
    models = [f"m{number}" for number in range(400)]
    cells = [scored("Q8_0", model=model) for model in models]
    found = run_of(*cells, others=[scored("Q8_0", model=model, engine="old") for model in models])
    text = run_markdown(found)
    assert len(text) < MOST_CHARACTERS
    assert "The tables of all cells have no room here" in text
    assert "All cells of" in run_markdown(replace(found, cells=found.cells[:1]))


def test_one_build_against_itself_and_another_build_are_named() -> None:
    found = compare_records(run_of(scored()), run_of(scored()))
    assert title(found) == "Comparison: llama-cpp-python 0.3.36 against itself"
    other = run_of(scored())
    other = replace(other, engine={**other.engine, "library_sha256": "0" * 64})
    found = compare_records(other, run_of(scored()))
    assert title(found) == (
        "Comparison: llama-cpp-python 0.3.36 against another build of llama-cpp-python 0.3.36"
    )


def test_an_engine_that_does_not_answer_is_named_with_its_error() -> None:
    broken = run_of(scored(), engine="old")
    broken = replace(broken, engine={"error": "no such interpreter"})
    text = upgraded_markdown(compare_records(broken, run_of(scored())))
    assert text.startswith("# Comparison: unknown engine → llama-cpp-python 0.3.36\n")
    assert "| error | no such interpreter | unknown |" in text


def test_limits_are_named_with_their_formats_where_they_differ() -> None:
    old = run_of(scored("Q8_0"), scored("Q2_K"), engine="old")
    found = compare_records(old, run_of(scored("Q8_0"), scored("Q2_K", tensors=OTHER_TYPES)))
    assert limits_text(found.cells) == (
        "PPL +0.25 % (Q8_0), PPL +1 % (Q2_K), PPL of each domain +1 % (Q8_0),"
        " PPL of each domain +4 % (Q2_K), mean KLD +3 %, size +0.5 %"
    )


def test_formats_that_only_one_engine_has_are_told() -> None:
    """In the profile or not; with what the other engine says of them."""
    known = {"refuses": {}, "tensor_types": ["Q4_K"]}
    old = run_of(scored(), engine="old")
    new = run_of(scored())
    old = replace(
        old,
        engine={
            **old.engine,
            "formats": {
                **known,
                "writes": ["Q4_0_4_4", "Q8_0"],
                "refuses": {"Q2_0": "invalid output file type 41"},
            },
        },
    )
    new = replace(
        new, engine={**new.engine, "formats": {**known, "writes": ["Q8_0", "Q2_0", "Q1_0"]}}
    )
    lines = upgraded_markdown(compare_records(old, new)).splitlines()
    told = lines[lines.index("## Format support") + 2 :][:3]
    assert told == [
        "- only the new engine has the formats `Q2_0`, `Q1_0` (of Q2_0 the other says: invalid"
        " output file type 41)",
        "- **only the old engine has** the formats `Q4_0_4_4`",
        "- both have the same 1 tensor types",
    ]
