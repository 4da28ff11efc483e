"""``--quant-shard``: jobs that measure a part of the matrix each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Project

WAYS = pytest.mark.parametrize(
    "way",
    [pytest.param((), id="plain"), pytest.param(("-n2",), id="n2", marks=pytest.mark.slow)],
)


def configure(project: Project, profile: str = "") -> None:
    """Let the project have two models of two formats each."""
    project.configure(
        formats=("F16", "Q4_0"),
        profile=f'models = ["tiny", "other"]\n{profile}',
        tables=f"[tool.quantgate.models.other]\nsource = {json.dumps(str(project.model))}",
    )
    project.use_fake_engine()


def record(project: Project, name: str = "run.json") -> dict[str, Any]:
    """Read a run record of the project."""
    found: dict[str, Any] = json.loads((project.root / name).read_text())
    return found


@WAYS
def test_a_shard_measures_its_cells_and_says_which_it_is(
    project: Project, way: tuple[str, ...]
) -> None:
    configure(project)
    result = project.matrix(*way, "--quant-shard=2/2", "--quant-report=run.json")
    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes()["passed"] == 2
    result.stdout.fnmatch_lines(
        ["quantgate: shard 2/2, 2 of 4 cells; join the records of all with quantgate merge"]
    )
    found = record(project)
    ids = ["other-F16-cpu", "other-Q4_0-cpu"]
    assert [cell["id"] for cell in found["cells"]] == ids
    assert {key: found["shard"][key] for key in ("number", "count", "cells")} == {
        "number": 2,
        "count": 2,
        "cells": ids,
    }


def test_a_job_of_an_array_takes_its_shard_from_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(project)
    monkeypatch.setenv("CI_NODE_INDEX", "2")
    monkeypatch.setenv("CI_NODE_TOTAL", "2")
    result = project.matrix("--quant-shard=auto", "--collect-only", "-q")
    result.stdout.fnmatch_lines(["quant-matrix::test_cell[[]other-F16-cpu[]]", "*other-Q4_0*"])
    result.stdout.no_fnmatch_line("*tiny*")
    monkeypatch.delenv("CI_NODE_INDEX")
    refused = project.matrix("--quant-shard=auto")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["ERROR: --quant-shard auto: this is no job of an array; none*"])


def test_the_cells_of_others_are_deselected(project: Project) -> None:
    configure(project)
    result = project.matrix("-v", "--quant-shard=1/4")
    result.assert_outcomes(passed=1, deselected=3)
    result.stdout.fnmatch_lines(["quant-matrix::test_cell[[]tiny-F16-cpu[]] PASSED*"])


def test_a_run_that_is_no_shard_says_nothing_of_one(project: Project) -> None:
    configure(project)
    result = project.matrix("--quant-report=run.json")
    assert record(project)["shard"] is None
    result.stdout.no_fnmatch_line("quantgate: shard*")


@WAYS
def test_a_shard_without_cells_is_green_and_has_a_record(
    project: Project, way: tuple[str, ...]
) -> None:
    configure(project, "gate = true")
    result = project.matrix(*way, "--quant-shard=5/5", "--quant-report=run.json")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        ["quantgate: shard 5/5 has no cell of the 4 that there are, which is green"]
    )
    result.stdout.no_fnmatch_line("*no cell was judged*")
    found = record(project)
    assert found["cells"] == []
    assert found["shard"]["cells"] == []


def test_a_gated_shard_that_has_cells_and_judged_none_is_red(project: Project) -> None:
    configure(project, "gate = true")
    result = project.matrix("--quant-shard=1/2", "-k", "nothing", "--quant-report=run.json")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED, "which is red too"
    result.stdout.fnmatch_lines(["quantgate: no cell was judged, so the gated run is red"])
    assert record(project)["shard"]["cells"] == ["tiny-F16-cpu", "tiny-Q4_0-cpu"]


def test_a_baseline_in_another_shard_gates_this_one(project: Project) -> None:
    """Whether a missing baseline is red does not depend on how the matrix is cut."""
    configure(project)
    assert project.accept("-k", "tiny").ret == pytest.ExitCode.OK
    result = project.matrix("--quant-shard=2/2")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*other-F16-cpu: NO_BASELINE: no baseline is stored*"])


def test_the_reference_is_the_same_in_every_shard(project: Project) -> None:
    """Also where the shard has not got it: a cell is compared with its model's full precision."""
    configure(project)
    project.matrix("--quant-shard=2/4", "--quant-report=run.json")
    (cell,) = record(project)["cells"]
    assert (cell["id"], cell["reference"]) == ("tiny-Q4_0-cpu", "F16")
    assert cell["ppl_vs_reference"] is not None


def test_a_shard_asks_for_no_model_of_others(project: Project) -> None:
    """A file that is missing there is no matter of this job."""
    project.configure(
        formats=("F16", "Q4_0"),
        profile='models = ["tiny", "missing"]',
        tables='[tool.quantgate.models.missing]\nsource = "nowhere.gguf"',
    )
    project.use_fake_engine()
    project.matrix("--quant-shard=1/2").assert_outcomes(passed=2, deselected=2)
    result = project.matrix("--quant-shard=2/2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: model 'missing': the file */nowhere.gguf does not*"])


def test_users_tests_are_cut_too(project: Project) -> None:
    """A test of a cell runs in the cell's shard, one of some fields once, any other everywhere."""
    configure(project)
    path = project.pytester.makepyfile(
        """
        def test_of_a_cell(quant_cell): pass
        def test_of_a_format(quant_format): pass
        def test_mine(): pass
        """
    )
    project.run(path, "--quant-shard=1/2").assert_outcomes(passed=5, deselected=2)
    project.run(path, "--quant-shard=2/2").assert_outcomes(passed=3, deselected=4)


def test_the_codecs_are_in_the_first_shard_alone(project: Project) -> None:
    project.configure(formats=("F16", "Q4_0"))
    result = project.run("--quant-codecs", "--collect-only", "-q", "--quant-shard=1/2")
    assert "quant-codecs::test_codec_property" in result.stdout.str()
    result = project.run("--quant-codecs", "--collect-only", "-q", "--quant-shard=2/2")
    assert "quant-codecs::" not in result.stdout.str()


def test_a_plan_is_of_the_shard(project: Project) -> None:
    configure(project)
    result = project.run("--quant-plan", "--quant-shard=1/2")
    result.stdout.fnmatch_lines(["profile default: 2 cells, nothing was run", "*", "tiny-F16-cpu*"])
    result.stdout.no_fnmatch_line("other-*")


def test_several_reports_are_written(project: Project) -> None:
    project.use_fake_engine()
    result = project.matrix("--quant-report=run.json", "--quant-report=run.md")
    root: Path = project.root
    result.stdout.fnmatch_lines([f"wrote {root / 'run.json'}", f"wrote {root / 'run.md'}"])
    assert len(record(project)["cells"]) == 3
    assert (root / "run.md").read_text().startswith("# Quantization gate")


@pytest.mark.parametrize("names", ["a.md", ["a.md", "b.json"]])
def test_the_configuration_may_name_one_report_or_several(
    project: Project, names: str | list[str]
) -> None:
    project.configure(top=f"report = {json.dumps(names)}")
    project.use_fake_engine()
    project.matrix("-k", "F16")
    for name in [names] if isinstance(names, str) else names:
        assert (project.root / name).is_file()
