"""Engines that answer, hang, die and are not there."""

from __future__ import annotations

import errno
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_quantgate.cli.doctor import engines
from pytest_quantgate.cli.doctor.engines import compute_a_little, examine_engines
from pytest_quantgate.cli.doctor.findings import Section, Severity
from pytest_quantgate.cli.doctor.project import Answer, project_of
from pytest_quantgate.config.settings import Settings
from pytest_quantgate.engines.messages import EngineDevice, Quantize, ScoredChunk
from pytest_quantgate.errors import CellInvalid
from tests.cli.doctor.conftest import Configure, examined
from tests.engines.fake_programs import write_programs

posix = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are shell scripts")


def table(name: str, key: str, path: Path) -> str:
    """Return an engine's table."""
    return f'[tool.quantgate.engines.{name}]\n{key} = "{path.as_posix()}"\n'


def examine(settings: Settings) -> tuple[Section, dict[str, Answer]]:
    """Return the section and the engines that answered."""
    project = project_of(settings)
    return examined(examine_engines, project), project.answers


def test_an_engine_that_works_is_told_with_its_devices(configure: Configure) -> None:
    section, answers = examine(configure())
    assert section.findings == []
    assert section.lines[0].startswith("default: llama-cpp-python ")
    assert "quantizes and computes" in section.lines[0]
    assert section.lines[1].startswith("  cpu  ")
    assert answers["default"].devices[0].name == "cpu"


@posix
def test_an_interpreter_that_never_starts_is_ended(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Execnet itself would wait for it without end."""
    script = tmp_path / "hangs"
    script.write_text("#!/bin/sh\nexec sleep 300\n")
    script.chmod(0o755)
    monkeypatch.setattr(engines, "ANSWER_S", 6.0)
    settings = configure(table("hangs", "python", script), 'engine = "hangs"')
    began_s = time.monotonic()
    section, answers = examine(settings)
    assert time.monotonic() - began_s < 25
    assert list(answers) == ["default"], "the others are asked all the same"
    (finding,) = section.findings
    assert finding.severity is Severity.ERROR
    assert finding.what == "engine 'hangs': no answer within 6 s; it was ended"
    assert "import llama_cpp" in finding.mend


@posix
def test_engines_that_are_left_when_time_is_up_are_not_asked(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "hangs"
    script.write_text("#!/bin/sh\nexec sleep 300\n")
    script.chmod(0o755)
    monkeypatch.setattr(engines, "ANSWER_S", 2.0)
    monkeypatch.setattr(engines, "ALL_S", 2.5)
    section, _ = examine(configure(table("hangs", "python", script), 'engine = "hangs"'))
    assert section.lines[-1] == "default: not asked, the others took 2 s"


@posix
@pytest.mark.parametrize("signal", ["SIGSEGV", "SIGILL"])
def test_a_build_for_another_cpu_is_told_with_its_command(
    configure: Configure, interpreter: Callable[[str], Path], signal: str
) -> None:
    python = interpreter(f"import os, signal\nos.kill(os.getpid(), signal.{signal})\n")
    section, _ = examine(configure(table("native", "python", python), 'engine = "native"'))
    (finding,) = section.findings
    assert finding.severity is Severity.ERROR
    assert (
        f"killed by {signal}; nothing was logged. A build for the instruction sets of another CPU"
        in finding.what
    )
    assert finding.mend.startswith(f'CMAKE_ARGS="-DGGML_NATIVE=OFF" {python} -m pip install')


def test_an_engine_that_the_profile_does_not_use_is_a_warning(
    configure: Configure, tmp_path: Path
) -> None:
    section, answers = examine(configure(table("gone", "python", tmp_path / "none")))
    assert list(answers) == ["default"]
    (finding,) = section.findings
    assert finding.severity is Severity.WARNING
    assert finding.mend == "change [tool.quantgate.engines.gone], or remove it"


def test_the_old_engine_of_a_profile_is_an_error_too(configure: Configure, tmp_path: Path) -> None:
    tables = table("old", "python", tmp_path / "none")
    section, _ = examine(configure(tables, 'against = "old"'))
    (finding,) = section.findings
    assert finding.severity is Severity.ERROR


@posix
def test_programs_are_asked_too(configure: Configure, tmp_path: Path) -> None:
    folder = write_programs(tmp_path / "bin")
    section, answers = examine(configure(table("tools", "tools", folder)))
    names = [device.name for device in answers["tools"].devices]
    assert names == ["cpu", "CUDA0", "CUDA1"]
    assert section.findings == []


def test_a_chunk_that_is_no_number_is_no_answer(tmp_path: Path) -> None:
    class Nonsense:
        def ask(self, request: object, on_reply: object = None) -> None:
            if not isinstance(request, Quantize):
                assert callable(on_reply)
                on_reply(
                    ScoredChunk(
                        index=0,
                        nll_sum_nats=float("nan"),
                        nll_nats=b"",
                        top_tokens=b"",
                        token_ids_sha256="",
                        seconds_s=0.0,
                    )
                )

    with pytest.raises(CellInvalid, match="gave the sums"):
        compute_a_little(Nonsense(), tmp_path)  # type: ignore[arg-type] # asked twice, not more


def test_no_folder_for_temporary_files_is_a_finding(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    section, answers = examine(configure())
    assert answers == {}
    (finding,) = section.findings
    assert "engine 'default': [Errno 28] No space left on device" in finding.what
    assert "doctor" not in finding.what


def test_which_devices_split_rows_is_told(configure: Configure) -> None:
    answers = examine(configure())[1]
    gpu = EngineDevice(name="CUDA0", description="", free_bytes=0, total_bytes=0, splits_rows=False)
    answer = replace(answers["default"], devices=(*answers["default"].devices, gpu))
    lines = engines.answer_lines("default", answer, computes=True)
    assert any(line.startswith('  split_mode "row": none of them; SYCL builds') for line in lines)
    able = replace(answer, devices=(*answers["default"].devices, replace(gpu, splits_rows=True)))
    assert '  split_mode "row": CUDA0' in engines.answer_lines("default", able, computes=True)
    assert not answers["default"].devices[0].splits_rows, "the processor has no such buffers"
