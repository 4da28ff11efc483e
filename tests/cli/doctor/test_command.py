"""``quantgate doctor`` as it is typed."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_quantgate.cli.doctor import examination
from pytest_quantgate.cli.doctor.findings import Section
from pytest_quantgate.cli.doctor.project import Project
from pytest_quantgate.cli.main import main
from tests.cli.doctor.conftest import Configure

NAMES = [
    "Installed",
    "Configuration",
    "Engines",
    "Hosts",
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
    assert any("did you mean 'profile'?" in line for line in lines if "error:" in line)


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
    def fail(section: Section, _project: Project) -> None:
        section.say("so far")
        raise RuntimeError("a surprise\nof two lines")

    configure()
    monkeypatch.setitem(examination.CHECKS, "Cache", fail)
    assert main(["doctor", "--quick"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in NAMES] == NAMES
    assert "  so far" in lines
    assert lines[-1].startswith("1. error: Cache could not be examined (RuntimeError: a surprise)")


@pytest.mark.skipif(sys.platform == "win32", reason="users have numbers elsewhere")
def test_nothing_of_the_environment_ends_it_with_a_traceback(tmp_path: Path) -> None:
    """No HOME, no USER, a cache that is a file, and a working folder that is gone."""
    (tmp_path / "pyproject.toml").write_text('[tool.quantgate]\ncache_dir = "cache"\n')
    (tmp_path / "cache").write_text("no folder")
    kept = {"PATH", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH"}
    code = "import sys; from pytest_quantgate.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "doctor", "--quick"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name in kept},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert f"the cache cannot be written: {tmp_path / 'cache'} is no folder" in done.stdout
    assert "Traceback" not in done.stdout
    gone = f"cd {shlex.quote(str(tmp_path))} && mkdir gone && cd gone && rmdir ../gone && exec"
    done = subprocess.run(
        f"{gone} {shlex.join(command)}", shell=True, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "quantgate: the present folder is gone; type: cd a folder that exists\n"
