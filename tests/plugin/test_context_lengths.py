"""Several context lengths in one profile: a cell each, with an id, a baseline and a table."""

from __future__ import annotations

import pytest

from pytest_quantgate.reports.write import run_markdown
from pytest_quantgate.results.record_file import read_record
from tests.conftest import Project

LENGTHS = "n_ctx = [64, 128]"


def test_each_length_has_its_own_cell_reference_and_baseline(own_cache: Project) -> None:
    """With the real engine."""
    own_cache.configure(formats=("F16", "Q8_0"), profile=LENGTHS)
    assert own_cache.accept().ret == pytest.ExitCode.OK
    assert [path.name for path in own_cache.baselines] == [
        "F16-cpu-story-c128.json",
        "F16-cpu-story-c64.json",
        "Q8_0-cpu-story-c128.json",
        "Q8_0-cpu-story-c64.json",
    ]

    result = own_cache.matrix("--quant-report=record.json")

    assert result.ret == pytest.ExitCode.OK
    record = read_record(own_cache.root / "record.json")
    assert [(cell.id, cell.verdict, cell.n_ctx) for cell in record.cells] == [
        ("tiny-F16-cpu-c64", "PASS", 64),
        ("tiny-Q8_0-cpu-c64", "PASS", 64),
        ("tiny-F16-cpu-c128", "PASS", 128),
        ("tiny-Q8_0-cpu-c128", "PASS", 128),
    ]
    # A chunk's second half is scored, and each cell is held against F16 on the same chunks.
    assert [cell.chunks.tokens[0] for cell in record.cells] == [31, 31, 63, 63]
    assert all(cell.divergence is not None for cell in record.cells if not cell.is_reference)
    assert record.settings["n_ctx"] == [64, 128]
    text = run_markdown(record)
    assert "text story, n_ctx 64" in text
    assert "text story, n_ctx 128" in text


def test_a_cell_is_chosen_by_its_length(own_cache: Project) -> None:
    own_cache.configure(formats=("Q8_0",), profile=LENGTHS)
    result = own_cache.matrix("-k", "c128")
    result.assert_outcomes(passed=1, deselected=1)


def test_one_length_is_not_named(own_cache: Project) -> None:
    own_cache.configure(formats=("Q8_0",), profile="n_ctx = [64]")
    own_cache.matrix("--quant-report=record.json")
    record = read_record(own_cache.root / "record.json")
    assert [(cell.id, cell.n_ctx) for cell in record.cells] == [("tiny-Q8_0-cpu", None)]
    assert record.settings["n_ctx"] == 64


def test_a_fault_at_one_length_is_red_there_alone(own_cache: Project) -> None:
    own_cache.use_fake_engine()
    own_cache.configure(profile=LENGTHS)
    assert own_cache.accept().ret == pytest.ExitCode.OK
    own_cache.set_faults(**{"Q8_0 at 128": "worse", "library": "another"})
    own_cache.matrix("--quant-report=record.json")
    record = read_record(own_cache.root / "record.json")
    assert [cell.id for cell in record.cells if cell.is_red] == ["tiny-Q8_0-cpu-c128"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("[]", "n_ctx is empty"),
        ("[64, 64]", "n_ctx has 64 twice"),
        ("[64, 4]", "4 is no number of tokens"),
        ('"64"', "'64' is no number of tokens"),
        ("true", "True is no number of tokens"),
    ],
)
def test_mistakes_are_one_line(own_cache: Project, value: str, problem: str) -> None:
    own_cache.configure(profile=f"n_ctx = {value}")
    result = own_cache.matrix()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{problem}*"])
