"""``--quant-codecs`` adds the codecs' properties to a run."""

from __future__ import annotations

import pytest

from tests.conftest import Project


def test_the_codecs_alone_run_without_a_path(project: Project) -> None:
    project.pytester.makepyfile("def test_other(): assert False")
    result = project.run("--quant-codecs", "-k", "Q8_0 and (locality or golden)", "-v")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["quant-codecs::test_codec_*Q8_0* PASSED*"])
    assert result.parseoutcomes()["passed"] == 2


def test_the_codecs_need_none_of_the_profiles_models(project: Project) -> None:
    project.configure(
        profile='models = ["gone"]',
        tables='[tool.quantgate.models.gone]\nsource = "package:no_such_package/gone.gguf"',
    )
    result = project.run("--quant-codecs", "-k", "Q8_0 and golden")
    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes()["passed"] == 1


def test_a_profile_runs_them_with_its_matrix(project: Project) -> None:
    project.configure(formats=("F16",), profile="codecs = true")
    result = project.matrix("-k", "tiny-F16 or (Q4_0 and zeros)")
    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes()["passed"] == 2


def test_batch_geometry_is_a_test_of_its_own(project: Project) -> None:
    project.configure(formats=("F16", "Q8_0"), profile="batch_geometry = true")
    result = project.matrix("-v")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["quant-matrix::test_batch_geometry?tiny-Q8_0-cpu? PASSED*"])
    result.assert_outcomes(passed=4)
