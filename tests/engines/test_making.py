"""Where an engine's interpreter is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_quantgate.config.machines import EngineSettings
from pytest_quantgate.engines.factory import make_engine
from pytest_quantgate.errors import CellUnavailable


@pytest.mark.parametrize(
    ("python", "found"),
    [
        ("venvs/new/bin/python", "{root}/venvs/new/bin/python"),
        ("~/venvs/new/bin/python", "{home}/venvs/new/bin/python"),
        ("/venvs/new/bin/python", "/venvs/new/bin/python"),
        ("python-of-nobody", "python-of-nobody"),
    ],
)
def test_an_interpreter_is_below_the_project_or_in_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str, found: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    engine = make_engine(
        EngineSettings(python=python),
        root=tmp_path / "project",
        log=tmp_path / "log",
        stall_s=20,
        sha256_of=lambda _path: "",
    )
    expected = found.format(root=tmp_path / "project", home=tmp_path / "home")
    with pytest.raises(CellUnavailable, match=f"'{expected}' cannot be started"):
        engine.identity()
    engine.close()
