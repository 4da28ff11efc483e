"""``quantgate bisect``: what a verdict answers, and a whole run with engines that are faked."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from pytest_quantgate.cli.main import main
from pytest_quantgate.diagnosis.bisect.answers import Answer, Kind
from pytest_quantgate.diagnosis.bisect.builds import BuildFailed
from pytest_quantgate.diagnosis.bisect.question import Question
from pytest_quantgate.diagnosis.bisect.releases import installed_releases, releases_between
from pytest_quantgate.errors import ConfigError

GIVEN = {f"0.3.{number}": Path(f"/venvs/{number}/bin/python") for number in (9, 10, 20, 30, 36)}


class NoBuild:
    """A builder that always fails."""

    def python(self, candidate: str) -> Path:
        raise BuildFailed(f"no {candidate}")


def test_releases_are_in_the_order_of_their_numbers() -> None:
    assert releases_between("0.3.9", "0.3.30", GIVEN) == ("0.3.9", "0.3.10", "0.3.20", "0.3.30")
    with pytest.raises(ConfigError, match=r"'0\.3\.11' is none of the releases 0\.3\.9, 0\.3\.10"):
        releases_between("0.3.11", "0.3.30", GIVEN)
    with pytest.raises(ConfigError, match="name the good release first"):
        releases_between("0.3.30", "0.3.9", GIVEN)


def test_an_interpreter_without_the_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it has no llama-cpp-python"):
        installed_releases([tmp_path / "python"])


def test_what_cannot_be_built_is_skipped(tmp_path: Path) -> None:
    question = Question(
        root=tmp_path, good=tmp_path, builder=NoBuild(), options=(), records=tmp_path
    )
    answer = question.ask("0.3.10")
    assert answer.kind is Kind.SKIP
    assert answer.reason == "cannot be built: no 0.3.10"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in whose releases the quantizer goes wrong with 0.3.30."""
    (tmp_path / "pyproject.toml").write_text(f'[tool.quantgate]\ncache_dir = "{tmp_path}/cache"\n')
    monkeypatch.chdir(tmp_path)
    commands = "pytest_quantgate.cli.commands.bisect"
    monkeypatch.setattr(f"{commands}.installed_releases", lambda _pythons: GIVEN)

    def ask(_self: Question, candidate: str) -> Answer:
        is_bad = candidate in ("0.3.30", "0.3.36")
        return Answer(
            kind=Kind.BAD if is_bad else Kind.GOOD,
            reason="REGRESSED: PPL +1.2 %" if is_bad else "PASS",
            shift=0.012 if is_bad else 0.0001,
            quantizer=0.012 if is_bad else 0.0,
            runtime=0.0,
        )

    monkeypatch.setattr(Question, "ask", ask)
    return tmp_path


ARGUMENTS = ("0.3.9", "0.3.36", "--model", "olmoe-mini", "--format", "IQ1_M", "--python", "p")


def test_it_ends_with_the_release_the_shifts_and_commands(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bisect", *ARGUMENTS, "-o", "found.md"]) == 0
    printed = capsys.readouterr().out
    assert "4 candidates, at most 3 to build and measure" in printed
    assert "First bad: llama-cpp-python 0.3.30" in printed
    report = (project / "found.md").read_text()
    assert "| after | llama-cpp-python 0.3.30 | +1.200 % | quantizer |" in report
    assert "| before | the last good one that was asked | +0.010 % |" in report
    assert "--quant-engine=python=/venvs/30/bin/python" in report
    assert "--quant-against=python=/venvs/9/bin/python" in report


def test_a_cell_is_named_by_its_id(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends, rest = ARGUMENTS[:2], ARGUMENTS[6:]
    assert main(["bisect", *ends, "--cell", "olmoe-mini-Q6_K-cpu", *rest, "-o", "found.md"]) == 0
    report = (project / "found.md").read_text()
    for option in ("model=olmoe-mini", "formats=Q6_K", "devices=cpu", "imatrix=none"):
        assert f"--quant-{option}" in report
    assert main(["bisect", *ends, "--cell", "olmoe-mini-Q6-cpu", *rest]) == 2
    assert "did you mean 'olmoe-mini-Q6_K-cpu'" in capsys.readouterr().err
    assert main(["bisect", *ends, *rest]) == 2
    assert "--cell ID, or with --model and --format" in capsys.readouterr().err


def test_a_plan_asks_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bisect", *ARGUMENTS, "--plan"]) == 0
    assert "First bad" not in capsys.readouterr().out
    assert not list(project.rglob("answers*.json"))


def test_another_test_of_the_cell_can_be_the_red_one(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bisect", *ARGUMENTS, "--test", "batch_geometry"]) == 0
    printed = capsys.readouterr().out
    assert "pytest quant-matrix::test_batch_geometry" in printed
    assert len(list(project.rglob("answers*.json"))) == 1
    assert main(["bisect", *ARGUMENTS]) == 0
    assert "pytest quant-matrix::test_cell" in capsys.readouterr().out
    assert len(list(project.rglob("answers*.json"))) == 2


def test_two_bisections_do_not_share_a_checkout(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second would build what the first has checked out."""
    folder = project / "cache" / "bisect"
    folder.mkdir(parents=True)
    with FileLock(folder / "lock"):
        assert main(["bisect", *ARGUMENTS]) != 0
    assert "another bisection is running in" in capsys.readouterr().err
    assert main(["bisect", *ARGUMENTS]) == 0
