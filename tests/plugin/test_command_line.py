"""What the command line asks for is what is measured, and what gates is said."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pytest_quantgate.config.options import OPTIONS, Overrides
from pytest_quantgate.config.settings import BUILT_IN_PROFILES
from tests.conftest import Project

README = Path(__file__).parents[2] / "README.md"


def test_the_overrides_are_those_of_the_table() -> None:
    """Each option that stands instead of a setting is a field, and given, is in the command."""
    fields = set(Overrides.__dataclass_fields__)
    assert fields == {o.field for o in OPTIONS if o.instead_of is not None} | {
        "shard",
        "fresh",
        "sweep",
    }
    given = {option.dest: ["a, b", "c"] for option in OPTIONS if option.takes.name == "LIST"}
    overrides = Overrides.read(given.get)
    assert overrides.models == overrides.imatrices == ("a", "b", "c")
    assert "--quant-model a,b,c --quant-formats a,b,c" in overrides.command


def test_a_repeated_option_continues_the_list(project: Project) -> None:
    project.use_fake_engine()
    result = project.matrix("--quant-formats=F16", "--quant-formats=Q4_0", "-v")
    result.assert_outcomes(passed=2)


def test_a_profile_names_models_by_their_source(project: Project) -> None:
    """As the command line does; the cells have the name of the file or shape."""
    project.configure(profile=f"models = ['shape:olmoe-1b-7b', '{project.model}']")
    result = project.matrix("--collect-only", "-q", "--quant-formats=Q4_0")
    ids = [line for line in result.outlines if "::" in line]
    assert ids == [f"quant-matrix::test_cell[{m}-Q4_0-cpu]" for m in ("olmoe-1b-7b", "tiny")]


def test_two_files_of_one_name_are_refused(project: Project) -> None:
    for name in ("a", "b"):
        (project.root / name).mkdir()
        (project.root / name / "one.gguf").symlink_to(project.model)
    result = project.matrix("--quant-model=a/one.gguf", "--quant-model=b/one.gguf")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*--quant-model 'b/one.gguf' and 'a/one.gguf' are both called 'one'; give one*"]
    )


def test_the_header_says_which_configuration_is_used(project: Project) -> None:
    project.use_fake_engine()
    config = project.root / "pyproject.toml"
    project.matrix("--collect-only").stdout.fnmatch_lines(
        [f"quantgate: profile 'default' of {config}"]
    )
    project.run().stdout.no_fnmatch_line("quantgate: *")
    result = project.matrix("--collect-only", "--quant-profile=sizes", "--quant-formats=Q4_0")
    result.stdout.fnmatch_lines(
        [
            f"quantgate: the built-in profile 'sizes' ({config} has no profile of that name), with"
            " other cells: those without a shipped baseline are measured, not gated"
        ]
    )


def test_a_sub_folder_with_a_pytest_ini_uses_the_projects_configuration(project: Project) -> None:
    below = project.root / "below"
    below.mkdir()
    (below / "pytest.ini").write_text("[pytest]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(below)
        project.matrix("--collect-only").stdout.fnmatch_lines(
            [f"quantgate: profile 'default' of {project.root / 'pyproject.toml'}"]
        )


def test_a_variant_of_a_built_in_profile_explores(project: Project) -> None:
    """Cells with a shipped baseline are held against it, the others are measured."""
    (project.root / "pyproject.toml").unlink()
    result = project.matrix(
        "--quant-model=olmoe-mini", "--quant-formats=F16,Q4_K_M", "--quant-parts=Q4_K_M"
    )
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["Q4_K_M.experts *MEASURED*", "Q4_K_M * PASS *"])
    result.stdout.no_fnmatch_line("*NO_BASELINE*")


@pytest.mark.parametrize(
    ("report", "problem"),
    [
        ("folder.md", "it is a folder; give the path of a file in a folder that you may write to"),
        ("file.txt/report.md", "*/file.txt is no folder; give*"),
        ("locked/report.md", "*/locked cannot be written to; give*"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_at_once(
    project: Project, monkeypatch: pytest.MonkeyPatch, report: str, problem: str
) -> None:
    (project.root / "folder.md").mkdir()
    (project.root / "locked").mkdir()
    (project.root / "file.txt").touch()
    access = os.access  # root may write everywhere
    monkeypatch.setattr(os, "access", lambda p, mode: "locked" not in str(p) and access(p, mode))
    result = project.matrix(f"--quant-report={report}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --quant-report '*{report}': {problem}"])


def test_a_report_that_is_lost_at_the_end_is_red(project: Project) -> None:
    """The folder became a file while the cells were measured."""
    project.use_fake_engine()
    conftest = project.root / "conftest.py"
    conftest.write_text(
        conftest.read_text()
        + "\n\ndef pytest_collection_finish():\n    Path('reports').write_text('')\n"
    )
    result = project.matrix("--quant-report=reports/report.md")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["quantgate: the report */reports/report.md cannot be written: *"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_a_run_in_ci_that_gates_nothing_is_red(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the profile says ``gate = false``; with a baseline or a limit it is gated."""
    project.use_fake_engine()
    result = project.matrix("--quant-report=report.json")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["nothing was gated (3 cells without a comparison)"])
    monkeypatch.setenv("CI", "true")
    result = project.matrix()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        ["quantgate: no cell was gated, so *red; store *gate = false in *default]*"]
    )
    result = project.matrix("-k", "no such cell")
    result.stdout.fnmatch_lines(["quantgate: no cell was judged, so the run in CI is red"])
    assert project.matrix("--collect-only").ret == pytest.ExitCode.OK
    project.configure(profile="gate = false")
    assert project.matrix().ret == pytest.ExitCode.OK
    project.configure()
    assert project.accept().ret == pytest.ExitCode.OK
    result = project.matrix()
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*so the run in CI is red*")


def test_the_readmes_test_holds_for_the_default_models(project: Project) -> None:
    """Of each format; what it says of speed depends on the machine."""
    (source,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    source = re.sub(r"@pytest.mark.quant_.*\n", "", source)
    assert "tensor_types" in source
    assert BUILT_IN_PROFILES["default"].models == ("olmoe-mini", "lfm2moe-mini")
    (project.root / "pyproject.toml").unlink()
    project.pytester.makepyfile(test_readme=source)
    result = project.run("--quant-formats=F16,Q4_K_M")
    result.assert_outcomes(passed=4)
