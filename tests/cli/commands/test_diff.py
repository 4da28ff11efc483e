"""``quantgate diff``: a change of baselines, as a reviewer reads it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.cli.main import main
from pytest_quantgate.results.baseline_store import shipped_folder

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

NAME = "olmoe-mini/Q4_K_M-cpu-evaluation-c512.json"


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True
    )


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose committed baselines are two of those that ship; its folder of them."""
    folder = tmp_path / "baselines"
    for name in (NAME, NAME.replace("Q4_K_M", "Q8_0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shipped_folder() / name, folder / name)
    (tmp_path / "pyproject.toml").write_text("[tool.quantgate]\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "baselines")
    monkeypatch.chdir(tmp_path)
    return folder


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))


def test_nothing_changed(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stored.is_dir()
    assert main(["diff"]) == 0
    assert "No baseline changed." in capsys.readouterr().out


def test_figures_have_their_values_intervals_and_reasons(
    stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(plain: dict[str, Any]) -> None:
        sums = plain["perplexity"]["chunks"]["nll_sum_nats"]
        plain["perplexity"]["chunks"]["nll_sum_nats"] = [nats + 2.55 for nats in sums]
        plain["perplexity"]["ppl"] *= 1.0100501670841679
        plain["size"]["file_bytes"] += 1000
        plain["reason"] = "a better | quantizer"

    edit(stored / NAME, change)
    assert main(["diff", "--markdown"]) == 0
    text = capsys.readouterr().out
    assert "**1 baseline: 1 changed.**" in text
    (ppl,) = (line for line in text.splitlines() if "| PPL |" in line)
    assert ppl.startswith("| olmoe-mini-Q4_K_M-cpu | PPL | 32.2879 → 32.6124 |")
    assert ppl.endswith("| +1.01 % [+1.01, +1.01] |")
    assert "|  | bytes |" in text
    assert "- a better \\| quantizer (olmoe-mini-Q4_K_M-cpu)" in text


def test_a_part_that_went_and_settings_of_the_file_are_told(
    stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A baseline that no longer holds its cell to something must not read as no change."""

    def change(plain: dict[str, Any]) -> None:
        plain["divergence"] = None
        plain["metadata"]["tokenizer.ggml.pre"] = "another"
        plain["routing"]["same_experts"][0] -= 100
        plain["routing"]["chunk_same_experts"][0] -= 100

    edit(stored / NAME, change)
    assert main(["diff", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("| divergence | stored → gone |" in line for line in lines)
    assert any("| metadata | tokenizer.ggml.pre " in line and "→ another" in line for line in lines)
    (routing,) = (line for line in lines if "| same experts |" in line)
    before, after = (float(part.split()[0]) for part in routing.split("|")[3].split("→"))
    assert after < before


def test_new_and_removed_files_are_listed(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stored / NAME).rename(stored / NAME.replace("Q4_K_M", "Q5_0"))
    edit(stored / NAME.replace("Q4_K_M", "Q5_0"), lambda plain: plain["key"].update(format="Q5_0"))
    assert main(["diff", "HEAD"]) == 0
    text = capsys.readouterr().out
    assert "2 baselines: 1 new, 1 removed." in text
    assert text.index("New\n") < text.index("olmoe-mini-Q5_0-cpu") < text.index("Removed\n")


@pytest.mark.parametrize("revision", ["nowhere", "--output=x"])
def test_a_revision_that_is_none_is_one_line(
    stored: Path, capsys: pytest.CaptureFixture[str], revision: str
) -> None:
    assert main(["diff", "--", revision]) == 2
    said = capsys.readouterr().err
    assert said.startswith("quantgate: git rev-parse: ")
    assert said.count("\n") == 1
    assert not (stored / "x").exists()


def test_outside_of_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.quantgate]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert main(["diff"]) == 2
    assert "there is no folder of baselines" in capsys.readouterr().err
    (tmp_path / "baselines").mkdir()
    assert main(["diff"]) == 2
    assert "not a git repository" in capsys.readouterr().err
