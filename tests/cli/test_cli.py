"""The ``quantgate`` command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.cli.main import main
from pytest_quantgate.reports.write import write_report
from pytest_quantgate.storage.cache import FOLDERS
from tests.reports.test_report import cell, record


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A run record of three formats."""
    path = tmp_path / "run.json"
    write_report(path, record(cell("F16", 10, 20), cell("Q8_0", 11, 10), cell("Q4_0", 12, 5)))
    return path


def test_a_record_is_shown_and_written(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(saved)]) == 0
    assert "Q4_0" in capsys.readouterr().out
    assert main(["report", str(saved), "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# Quantization gate")
    target = saved.with_suffix(".md")
    assert main(["report", str(saved), "-o", str(target)]) == 0
    assert target.read_text(encoding="utf-8") == printed


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 99}', '{"version": 1}'])
def test_what_is_no_record_is_one_line(
    saved: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    saved.write_text(content)
    assert main(["report", str(saved)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(saved) in said


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configured cache of the project in the present folder, with one file a part."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.quantgate]\ncache_dir = "kept"\n')
    folder = tmp_path / "kept"
    for name in FOLDERS:
        path = folder / name / "entry" / "file" if name == "runs" else folder / name / "file"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"1" * 1000)
    return folder


def parts_left(folder: Path) -> set[str]:
    """Return the parts of a cache that have a file."""
    return {path.relative_to(folder).parts[0] for path in folder.rglob("file")}


def test_the_configured_cache_is_shown(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{cache}:"
    assert [line.split()[:2] for line in lines[1:-1]] == [[name, "1"] for name in FOLDERS]
    assert lines[-1].split() == ["in", "all", str(len(FOLDERS)), "files", "0.0", "MB"]
    assert parts_left(cache) == set(FOLDERS)


def test_clearing_keeps_what_is_not_made_again(cache: Path) -> None:
    """The values that baselines refer to, and runs that may go on."""
    assert main(["cache", "--clear"]) == 0
    assert parts_left(cache) == {"tokens", "speeds", "runs"}
    old = time.time() - 2 * 24 * 3600
    for path in (cache / "runs").rglob("*"):
        os.utime(path, (old, old))
    assert main(["cache", "--clear"]) == 0
    assert parts_left(cache) == {"tokens", "speeds"}


def test_pruning_removes_what_is_too_old(cache: Path) -> None:
    old = time.time() - 90 * 24 * 3600
    for path in cache.rglob("*"):
        os.utime(path, (old, old))
    assert main(["cache", "--prune"]) == 0
    assert parts_left(cache) == {"artifacts", "tokens", "speeds", "hashes"}


def test_another_cache_is_shown_without_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.quantgate]\nwrong = 1\n")
    assert main(["cache"]) == 2
    assert main(["cache", "--dir", str(tmp_path / "none")]) == 0
    assert "0 files" in capsys.readouterr().out
    assert not (tmp_path / "none").exists(), "looking makes nothing"


def test_the_devices_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["devices"]) == 0
    first, cpu, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("llama-cpp-python ")
    assert cpu.startswith("  cpu")
    assert " GB free, every other device is hidden" in cpu


def test_the_processor_is_one_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["devices"]) == 0
    names = [line.split()[0].lower() for line in capsys.readouterr().out.splitlines()[1:]]
    assert names.count("cpu") == 1


def test_an_engine_of_the_configuration_lists_its_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.quantgate.engines.here]\npython = "{sys.executable}"\n'
        '[tool.quantgate.engines.gone]\ntools = "nowhere"\n'
    )
    assert main(["devices", "--engine", "here"]) == 0
    assert capsys.readouterr().out.startswith("llama-cpp-python ")
    assert main(["devices", "--engine", "gone"]) == 2
    assert "there is no program llama-perplexity" in capsys.readouterr().err
    assert main(["devices", "--engine", "her"]) == 2
    assert "did you mean 'here'?" in capsys.readouterr().err


def test_an_interpreter_that_is_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--python", "/no/such/python"]) == 2
    assert "the engine lists no devices: the interpreter" in capsys.readouterr().err


def test_an_incomplete_installation_is_one_line() -> None:
    script = (
        "import sys; sys.modules['scipy'] = None;"
        " from pytest_quantgate.cli.main import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("quantgate: this installation is incomplete (")
    assert "pip install pytest-quantgate" in done.stderr
    assert done.stderr.count("\n") == 1


def run_report(path: Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own, whose output nothing replaces."""
    script = "import sys; from pytest_quantgate.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "report", str(path)]
    return subprocess.run(command, stderr=subprocess.PIPE, check=False, **options)


def test_an_encoding_without_the_signs_gets_others_of_equal_width(saved: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "COLUMNS": "80"}
    done = run_report(saved, stdout=subprocess.PIPE, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode("cp1252").splitlines()
    (heading,) = (line for line in lines if line.startswith("format"))
    assert "dPPL [95 %]" in heading
    assert "?" not in done.stdout.decode("cp1252")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break otherwise there")
def test_a_reader_that_left_ends_the_command_quietly(saved: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run_report(saved, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_device_is_one_line(saved: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run_report(saved, stdout=full)
    assert done.returncode == 2
    assert done.stderr.decode().startswith("quantgate: [Errno 28]")
    assert done.stderr.count(b"\n") == 1


def test_a_report_that_cannot_be_written_is_one_line(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(saved), "-o", str(saved / "below-a-file.md")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "below-a-file.md" in said
