"""``quantgate doctor`` as it is typed."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path

import pytest

from pytest_quantgate.cli.doctor import examination
from pytest_quantgate.cli.main import main
from tests.cli.doctor.conftest import Configure

NAMES = [
    "Installed",
    "Configuration",
    "Engines",
    "Devices, models and texts of the profile",
    "Cache",
    "Baselines",
]


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in the project."""
    monkeypatch.chdir(tmp_path)


def test_a_project_in_which_nothing_is_wrong(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure()
    before = sorted(tmp_path.rglob("*"))
    assert main(["doctor", "--quick"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert [line for line in lines if line in NAMES] == NAMES
    assert lines[-1] == "nothing is wrong"
    assert sorted(tmp_path.rglob("*")) == before, "looking makes nothing"
    assert platform.node() not in out


def test_what_is_wrong_is_numbered_at_the_end(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    configure('[tool.quantgate.models.gone]\nsource = "gone.gguf"\n', 'models = ["gone"]')
    assert main(["doctor", "--quick"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("1. error: model 'gone': the file ")


def test_json_is_all_that_is_printed(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    configure()
    assert main(["doctor", "--quick", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["is_well"] is True
    assert [section["name"] for section in plain["sections"]] == NAMES


def test_a_configuration_that_cannot_be_used_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What does not need it is examined all the same."""
    (tmp_path / "pyproject.toml").write_text("[tool.quantgate]\nprofil = 1\n")
    assert main(["doctor", "--quick"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert {"Engines", "Cache"} <= set(lines)
    assert "did you mean 'profile'?" in lines[-1]


def test_a_profile_may_be_named(configure: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    configure('[tool.quantgate.profiles.other]\nmodels = ["tiny"]\n')
    assert main(["doctor", "--quick", "--profile", "other"]) == 0
    assert "profile other" in capsys.readouterr().out
    assert main(["doctor", "--quick", "--profile", "none"]) == 1
    assert "unknown profile 'none'" in capsys.readouterr().out


def test_it_is_quick(configure: Configure) -> None:
    """Without the measurement: seconds, with an engine that works."""
    configure()
    began_s = time.monotonic()
    main(["doctor", "--quick"])
    assert time.monotonic() - began_s < 30


def test_what_nobody_thought_of_ends_one_section_alone(
    configure: Configure, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("a surprise\nof two lines")

    configure()
    monkeypatch.setattr(examination, "examine_storage", fail)
    assert main(["doctor", "--quick"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in NAMES] == NAMES
    assert lines[-1].startswith("1. error: Cache could not be examined (RuntimeError: a surprise)")
