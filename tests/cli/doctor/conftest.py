"""Projects to be examined, and engines with a fault."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.cli.doctor.findings import Section
from pytest_quantgate.cli.doctor.project import Project, project_of
from pytest_quantgate.config.settings import Settings, load_settings

Configure = Callable[..., Settings]


def examined(check: Callable[..., None], project: Project | Settings, *arguments: Any) -> Section:
    """Return what a check says of a project."""
    section = Section(name="any")
    check(section, project_of(project) if isinstance(project, Settings) else project, *arguments)
    return section


@pytest.fixture
def configure(tmp_path: Path, tiny_model: Path, story: Path) -> Configure:
    """Return what writes a project's configuration and loads it."""

    def write(tables: str = "", profile: str = "", top: str = "") -> Settings:
        lines = [
            "[tool.quantgate]",
            'cache_dir = "cache"',
            top,
            "[tool.quantgate.models.tiny]",
            f"source = {json.dumps(str(tiny_model))}",
            "[tool.quantgate.texts.story]",
            f"source = {json.dumps(str(story))}",
            tables,
            "[tool.quantgate.profiles.default]",
            'models = ["tiny"]' if "models =" not in profile else "",
            'texts = ["story"]' if "texts =" not in profile else "",
            'formats = ["F16", "Q8_0"]',
            "n_ctx = 64",
            "n_threads = 1",
            profile,
        ]
        (tmp_path / "pyproject.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return load_settings(tmp_path)

    return write


@pytest.fixture
def interpreter(tmp_path: Path) -> Callable[[str], Path]:
    """Return what makes an interpreter whose llama_cpp is these lines of Python."""

    def make(llama_cpp: str) -> Path:
        package = tmp_path / "packages" / "llama_cpp"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(llama_cpp)
        script = tmp_path / "python"
        path = shlex.quote(str(package.parent))
        script.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {shlex.quote(sys.executable)} "$@"\n')
        script.chmod(0o755)
        return script

    return make
