"""``quantgate history``: accepted baselines from git, run records, and where it is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.cli.main import main
from pytest_quantgate.reports.write import write_report
from tests.cli.commands.test_diff import NAME, edit, git, pytestmark, stored
from tests.reports.test_report import cell, record

__all__ = ["pytestmark", "stored"]


def worse(plain: dict[str, Any]) -> None:
    """Make a baseline's perplexity 1 % worse, with a reason."""
    sums = plain["perplexity"]["chunks"]["nll_sum_nats"]
    plain["perplexity"]["chunks"]["nll_sum_nats"] = [nats + 2.55 for nats in sums]
    plain["perplexity"]["ppl"] *= 1.010050167084168
    plain["made_by"]["llama_cpp"] = "b9999"
    plain["made_by"]["library_sha256"] = "0" * 64
    plain["reason"] = "faster kernels"


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["history", *arguments]) == 0
    return capsys.readouterr().out


@pytest.fixture
def accepted(stored: Path) -> Path:
    """A project that accepted a change of one of its two baselines."""
    edit(stored / NAME, worse)
    git(stored, "commit", "-qam", "Take the new kernels")
    return stored


def test_what_was_accepted_with_its_commit_reason_and_cause(
    accepted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(capsys)
    assert accepted.is_dir()
    assert "1 of 2 cells changed level: 1 figure, 1 for the worse." in text
    assert "Baselines accepted in 2 commits" in text
    (title,) = (line for line in text.splitlines() if ": Take the new kernels" in line)
    assert title.startswith("olmoe-mini-Q4_K_M-cpu at ")
    assert "  PPL: 32.2879 → 32.6124, +1.01 % [+1.01, +1.01], worse" in text
    assert "  reason: faster kernels" in text
    assert "cause: the libraries changed" in text
    assert "b9999" in text


def test_only_some_cells(accepted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--cell", "*Q8_0*")
    assert accepted.is_dir()
    assert "No change of level in 1 cell." in text
    assert main(["history", "--cell", "nothing"]) == 2
    assert "--cell 'nothing' fits no cell; there are: olmoe-mini-Q4_K_M-cpu" in (
        capsys.readouterr().err
    )


def test_a_shallow_clone_says_where_it_begins(
    accepted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", accepted.parent.as_uri(), str(clone))
    monkeypatch.chdir(clone)
    text = " ".join(shown(capsys).split())
    assert "this clone is shallow: the history begins at" in text
    assert "git fetch --unshallow" in text
    assert "No change of level in 2 cells." in text


def test_a_baseline_that_cannot_be_read_is_left_out_aloud(
    accepted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (accepted / NAME).write_text("{", encoding="utf-8")
    git(accepted, "commit", "-qam", "damage it")
    text = " ".join(shown(capsys).split())
    assert "Warning: left out: the baseline olmoe-mini/Q4_K_M" in text
    assert "1 of 2 cells changed level" in text


def test_no_baselines_say_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.quantgate]\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["history"]) == 2
    assert "quantgate history RECORDS" in capsys.readouterr().err
    (tmp_path / "baselines").mkdir()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "nothing yet")
    assert main(["history"]) == 2
    assert "no baseline below" in capsys.readouterr().err


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with five records, of which the last two are worse, and another JSON."""
    folder = tmp_path / "runs"
    for n in range(5):
        made = replace(
            record(cell("F16", 20, 9), cell("Q4_0", 21 if n < 3 else 22, 3)),
            started=f"2026-01-0{n + 1}T00:00:00+00:00",
        )
        write_report(folder / f"job-{n}" / "quantgate-record.json", made)
    (folder / "other.json").write_text("[]", encoding="utf-8")
    return folder


def test_records_of_a_folder(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, str(runs))
    assert "1 of 2 cells changed level: 1 figure, 1 for the worse." in text
    assert "m-Q4_0-cpu at job-3/quantgate-record (2026-01-04 00:00)" in text
    assert "left out: " in text
    assert main(["history", str(runs / "other.json")]) == 2


@pytest.mark.parametrize(
    ("name", "options", "start"),
    [
        ("h.html", [], "<!DOCTYPE html>"),
        ("h.md", [], "# History"),
        ("h.json", ["--export", "bencher"], '{\n "m-F16-cpu"'),
        ("h.json", ["--export", "github-benchmark-smaller"], "[\n {"),
    ],
)
def test_where_it_is_written(
    name: str, options: list[str], start: str, runs: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    assert main(["history", str(runs), *options, "-o", str(path)]) == 0
    assert path.read_text(encoding="utf-8").lstrip().startswith(start)


def test_a_wrong_ending_names_the_valid_ones(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", str(runs), "-o", "x.json"]) == 2
    assert "the valid endings are here: .html, .md" in capsys.readouterr().err
    assert main(["history", str(runs), "--export", "bencher", "-o", "x.md"]) == 2
    assert json.dumps(".json").strip('"') in capsys.readouterr().err
