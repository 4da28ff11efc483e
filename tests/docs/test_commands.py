"""Every command of README and the documentation runs as it is written; see :mod:`pages`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pytest_quantgate import gguf
from tests.docs.pages import PAGES, TUTORIAL, Block, blocks

BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [block for block in BLOCKS if block.is_commands and block.page != TUTORIAL]

SMALL = """
[tool.quantgate]
profile = "small"
[tool.quantgate.profiles.small]
models = ["olmoe-mini"]
formats = ["F16", "Q4_K_M", "MXFP4_MOE"]
imatrices = ["none", "calibration"]
chunks = 2
n_ctx = 256
routing = false
"""


class Shell:
    """Runs commands as a reader would: by a shell, in a folder, with a terminal's 80 columns."""

    def __init__(self, cache: Path) -> None:
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "QUANTGATE"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(cache),
            "COLUMNS": "80",
            "NO_COLOR": "1",
            "GITHUB_STEP_SUMMARY": str(cache / "summary.md"),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        self.environment.pop("CI", None)

    def run(self, commands: str, folder: Path, status: int = 0, timeout_s: float = 900) -> str:
        """Return what the commands print; the exit status must be as given."""
        done = subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == status, f"{commands}\n{done.stdout}"
        return done.stdout


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("cache"))


def empty(_: Shell, folder: Path) -> None:
    """Leave the folder as it is."""


def project(_: Shell, folder: Path) -> None:
    """Write a profile that takes seconds."""
    (folder / "pyproject.toml").write_text(SMALL, encoding="utf-8")


def records(shell: Shell, folder: Path) -> None:
    """Write run records under the names of the pages' examples, and those of four shards."""
    project(shell, folder)
    shell.run("pytest --quant-matrix --quant-report run.json", folder)
    (folder / "records").mkdir()
    for name in ("before", "after", "all"):
        shutil.copy(folder / "run.json", folder / f"{name}.json")
    for number in range(1, 5):
        report = f"shard-{number}.json"
        shell.run(f"pytest --quant-matrix --quant-shard {number}/4 --quant-report {report}", folder)
        shutil.copy(folder / report, folder / "records")


def models(_: Shell, folder: Path) -> None:
    """Place a model and a text under the names of the pages' examples."""
    source = Path(gguf.__file__).parent / "embedded" / "olmoe-mini.gguf"
    (folder / "models").mkdir()
    for name in ("my-model-f16.gguf", "olmoe-1b-7b-bf16.gguf"):
        (folder / "models" / name).symlink_to(source)
    (folder / "held-out.txt").write_text("A text of some words. " * 2000, encoding="utf-8")


def repository(shell: Shell, folder: Path) -> None:
    """Make a repository of git with the baselines of a small profile."""
    project(shell, folder)
    shell.run("git init -q -b main .", folder)
    shell.run('pytest --quant-matrix --snapshot-update --quant-reason "first"', folder)
    identity = "-c user.name=A -c user.email=a@example.org"
    shell.run(f"git add . && git {identity} commit -q -m baselines", folder)


FOLDERS: Mapping[str, Callable[[Shell, Path], None]] = {
    "": empty,
    "a project": project,
    "records": records,
    "models": models,
    "a repository": repository,
}
"""What stands in the folder of the commands, by the name that a comment gives it."""


@pytest.fixture(scope="session")
def prepared(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("prepared")
            FOLDERS[name](shell, made[name])
        return made[name]

    return make


def case(block: Block) -> object:
    """Return a block as a test's parameter, in the tier that its comment says."""
    marks = []
    if block.said("not run") is not None:
        marks.append(pytest.mark.skip(reason=block.said("not run") or ""))
    if block.said("slow") is not None:
        marks.append(pytest.mark.slow)
    return pytest.param(block, id=block.id, marks=marks)


@pytest.mark.parametrize("block", [case(block) for block in COMMANDS])
def test_the_commands_run(
    block: Block, shell: Shell, prepared: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(prepared(block.said("run in") or ""), folder, symlinks=True)
    timeout_s = 30 if block.said("slow") is None else 900
    shell.run(block.text, folder, int(block.said("exit status") or 0), timeout_s)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.id)
def test_a_block_of_commands_is_marked_as_one(block: Block) -> None:
    assert not block.looks_like_commands, f"{block.id}: write ```sh"
    reason = block.said("not run")
    assert reason is None or len(reason.split()) >= 3, f"{block.id}: say why it is not run"


TIME = re.compile(r"\b\d+(\.\d+)? ?(s|min)\b")


def plain(text: str) -> list[str]:
    """Return lines without times and without blanks at their ends."""
    return [TIME.sub("TIME", line.rstrip()) for line in text.splitlines() if line.strip()]


def assert_shown(shown: str, printed: str) -> None:
    """Every shown line is printed, in this order."""
    rest = iter(plain(printed))
    for line in plain(shown):
        start = line.removesuffix("…").rstrip() if line.endswith("…") else None
        hit = any(other.startswith(start) if start else other == line for other in rest)
        assert hit, f"{line!r} is not printed, or not in this place:\n{printed}"


@pytest.mark.slow
def test_the_tutorial_leads_to_the_output_that_it_shows(shell: Shell, tmp_path: Path) -> None:
    printed, compared = "", 0
    for block in blocks(TUTORIAL):
        name = block.said("file")
        if block.is_commands and block.said("not run") is None:
            status = int(block.said("exit status") or 0)
            printed = shell.run(block.text, tmp_path, status)
        elif name is not None:
            path, _, start = name.partition(", from ")
            before = (
                (tmp_path / path).read_text(encoding="utf-8").partition(start)[0] if start else ""
            )
            (tmp_path / path).write_text(before + block.text, encoding="utf-8")
        elif block.said("output") is not None:
            assert_shown(block.text, printed)
            compared += 1
    assert compared >= 4


def test_a_shown_line_that_is_not_printed_is_an_error() -> None:
    assert_shown("a\nb …\n", "x\na \ny\nb c\n")
    for shown in ("b\na\n", "a b\n", "c …\n"):
        with pytest.raises(AssertionError, match="is not printed"):
            assert_shown(shown, "a\nb\n")
