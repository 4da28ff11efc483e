"""What a run has and its baselines lack, and the other way round: said, and never green for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.reports.run_report import state
from pytest_quantgate.results.merge import join
from pytest_quantgate.results.record_file import read_record
from tests.conftest import Project

SPEED = "speed = true\nspeed_processes = 5\nspeed_repetitions = 1\n"
TALE = '[tool.quantgate.texts.tale]\nsource = "tale.txt"'


@pytest.fixture
def accepted(own_cache: Project) -> Project:
    """A project of the fake engine with a baseline of each cell."""
    own_cache.use_fake_engine()
    (own_cache.root / "tale.txt").write_bytes(b"Once more: " + own_cache.text.read_bytes())
    own_cache.configure()
    assert own_cache.accept().ret == pytest.ExitCode.OK
    return own_cache


def headline(project: Project, *arguments: str) -> str:
    """Run the matrix and return the first line of its Markdown report."""
    project.matrix("--quant-report=report.md", "--quant-report=report.json", *arguments)
    return (project.root / "report.md").read_text().splitlines()[0].removeprefix("# ")


def record(project: Project) -> dict[str, Any]:
    """Return the run's record."""
    content: dict[str, Any] = json.loads((project.root / "report.json").read_text())
    return content


def test_a_format_or_a_text_that_the_profile_no_longer_has_is_said(accepted: Project) -> None:
    accepted.configure(formats=("F16", "Q8_0"))
    result = accepted.matrix("--quant-report=report.md")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "all green; not compared: 1 stored baseline",
            "Not compared: baselines that no profile * looks up (tiny/Q4_0-cpu-story-c64.json)",
        ]
    )
    accepted.configure(tables=TALE, profile='texts = ["story", "tale"]')
    assert accepted.accept().ret == pytest.ExitCode.OK
    assert headline(accepted) == "Quantization gate: all green"
    accepted.configure()
    assert headline(accepted) == "Quantization gate: all green; not compared: 3 stored baselines"


def test_what_another_profile_or_the_command_line_measures_is_none_of_it(
    accepted: Project,
) -> None:
    other = '[tool.quantgate.profiles.other]\nmodels = ["tiny"]\ntexts = ["story"]\nn_ctx = 64\n'
    accepted.configure(formats=("F16",), tables=other + 'formats = ["Q8_0", "Q4_0"]')
    assert headline(accepted) == "Quantization gate: all green"
    accepted.configure()
    assert headline(accepted, "--quant-formats=F16") == "Quantization gate: all green"


@pytest.mark.parametrize("how", ["-k", "skip", "hook"])
def test_a_cell_that_a_run_leaves_out_is_said(accepted: Project, how: str) -> None:
    """The report of a part of the matrix does not look like that of the whole."""
    added = {
        "skip": """
import pytest
@pytest.fixture(autouse=True)
def _skip_one(request):
    if "Q4_0" in request.node.name:
        pytest.skip("it takes too long")
""",
        "hook": """
def pytest_collection_modifyitems(items):
    items[:] = [item for item in items if "Q4_0" not in item.name]
""",
    }
    with (accepted.root / "conftest.py").open("a") as conftest:
        conftest.write(added.get(how, ""))
    narrowed = ("-k", "not Q4_0") if how == "-k" else ()
    told = "Quantization gate: all green; not compared: 1 cell left out"
    assert headline(accepted, *narrowed) == told
    assert "no test of this run judged" in (accepted.root / "report.md").read_text()
    (alone,) = record(accepted)["stored_alone"]
    assert alone["names"] == ["tiny-Q4_0-cpu"]


def test_a_cell_left_out_of_one_record_may_be_another_ones(accepted: Project) -> None:
    paths: list[Path] = []
    for cells in ("Q4_0", "not Q4_0"):
        accepted.matrix("-k", cells, "--quant-report=report.json")
        paths.append((accepted.root / "report.json").rename(f"{len(paths)}.json"))
    records = {str(path): read_record(path) for path in paths}
    assert [state(each) for each in records.values()] == [
        "all green; not compared: 2 cells left out",
        "all green; not compared: 1 cell left out",
    ]
    assert state(join(records)) == "all green"


def test_a_model_that_was_renamed_leaves_its_baselines_behind(accepted: Project) -> None:
    other = json.dumps(str(accepted.model))
    accepted.configure(
        profile='models = ["renamed"]', tables=f"[tool.quantgate.models.renamed]\nsource = {other}"
    )
    told = headline(accepted)
    assert told.startswith("Quantization gate: nothing was gated (3 cells without a comparison)")
    assert told.endswith("; not compared: 3 stored baselines")


def test_a_speed_without_a_stored_one_is_said_beside_what_passed(accepted: Project) -> None:
    accepted.configure(profile=SPEED)
    assert headline(accepted) == "Quantization gate: all green; not compared: speed of 3 cells"
    assert {cell["verdict"] for cell in record(accepted)["cells"]} == {"PASS"}
    text = (accepted.root / "report.md").read_text()
    assert "- Not compared: speed: prefill: " in text


@pytest.mark.parametrize("metric", ["speed", "memory"])
def test_a_stored_cost_that_is_no_longer_measured_is_said(accepted: Project, metric: str) -> None:
    accepted.configure(profile=SPEED if metric == "speed" else "memory = true")
    assert accepted.accept().ret == pytest.ExitCode.OK
    assert headline(accepted) == "Quantization gate: all green"
    accepted.configure()
    told = f"Quantization gate: all green; not compared: stored {metric} of 3 cells"
    assert headline(accepted) == told
    (alone,) = record(accepted)["stored_alone"]
    assert alone["names"] == ["tiny-F16-cpu", "tiny-Q8_0-cpu", "tiny-Q4_0-cpu"]


def test_a_run_that_gates_nothing_says_so_first_and_is_red_in_ci(
    own_cache: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_cache.use_fake_engine()
    monkeypatch.delenv("CI", raising=False)
    result = own_cache.matrix("--quant-report=report.md", "--quant-report=report.html")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["nothing was gated (3 cells without a comparison)"])
    for ending in ("md", "html"):
        assert "othing was gated" in (own_cache.root / f"report.{ending}").read_text()
    monkeypatch.setenv("CI", "true")
    assert own_cache.matrix().ret == pytest.ExitCode.TESTS_FAILED
    own_cache.configure(profile="gate = false")
    assert own_cache.matrix().ret == pytest.ExitCode.OK


@pytest.mark.parametrize("ci", ["", "true"])
def test_formats_that_are_all_left_out_gate_nothing(
    own_cache: Project, ci: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cell is skipped since the engine refuses what the profile calls optional."""
    monkeypatch.setenv("CI", ci)
    own_cache.use_fake_engine(Q8_0="unsupported", Q4_0="unsupported")
    own_cache.configure(profile='optional = ["Q8_0", "Q4_0"]')
    result = own_cache.matrix("-k", "Q8_0 or Q4_0", "--quant-report=report.md")
    assert result.ret == (pytest.ExitCode.TESTS_FAILED if ci else pytest.ExitCode.OK)
    assert "nothing was gated (2 cells" in (own_cache.root / "report.md").read_text()
