"""The matrix with an engine of programs: each fault is a verdict, never an error of the run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Project
from tests.engines.fake_programs import calls, set_faults, write_programs

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the fakes are scripts")


@pytest.fixture
def programs(own_cache: Project) -> tuple[Project, Path]:
    """A project whose engine is a folder of fakes."""
    folder = write_programs(own_cache.root / "bin")
    own_cache.configure(
        formats=("F16", "Q8_0"),
        profile='engine = "fakes"\nchunk_order = "text"\nchunks = 16\nlooks = [8]',
        tables='[tool.quantgate.engines.fakes]\ntools = "bin"\narguments = ["-ngl", "3"]',
        top="stall_s = 2",
    )
    return own_cache, folder


def record(project: Project, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Run the matrix; return its exit status and the cells of its record."""
    result = project.matrix("--quant-report=r.json", *arguments)
    result.stdout.no_fnmatch_line("*Traceback*")
    cells: list[dict[str, Any]] = json.loads((project.root / "r.json").read_bytes())["cells"]
    return int(result.ret), cells


def test_cells_are_measured_compared_and_accepted(programs: tuple[Project, Path]) -> None:
    project, folder = programs
    status, (reference, other) = record(project)
    assert status == 0
    assert (reference["verdict"], other["verdict"]) == ("MEASURED", "MEASURED")
    assert len(reference["chunks"]["index"]) == 16
    assert reference["ppl"] == pytest.approx(12.18, abs=0.5)
    divergence = other["divergence"]
    assert isinstance(divergence, dict)
    assert divergence["mean_kld_nats"] == pytest.approx(0.05, abs=1e-2)
    assert divergence["kld_percentiles_nats"]["99"] == 0.43
    assert divergence["by_confidence"] == []
    assert other["id"] == "tiny-Q8_0-cpu-fakes"
    assert project.accept().ret == 0
    stored = json.loads(project.baselines[-1].read_bytes())
    assert stored["perplexity"]["per_token_sha256"] is None
    assert set(stored["perplexity"]["chunks"]["top_tokens"]) == {None}
    assert stored["made_by"]["engine"] == "llama.cpp's programs 9999 (abcdef0)"
    status, (_, other) = record(project)
    assert (status, other["verdict"]) == (0, "PASS")
    assert "identical to the baseline's" in str(other["reason"])
    assert "to the digits printed" in str(other["reason"])
    assert calls(folder, "llama-perplexity")[-1][-3:-1] != [], "the programs were asked"


@pytest.mark.parametrize(
    ("faults", "verdict", "reason"),
    [
        ({"llama_perplexity": "garbage"}, "CRASHED", "llama-perplexity did not print its result"),
        ({"llama_perplexity": "decode"}, "CRASHED", "llama-perplexity did not print its result"),
        ({"llama_perplexity": "abort"}, "CRASHED", "killed by SIGABRT"),
        ({"llama_perplexity": "hang"}, "TIMEOUT", "llama-perplexity printed nothing for 2 s"),
        ({"llama_perplexity": "refuse"}, "UNSUPPORTED", "unknown model architecture: 'x'"),
        ({"llama_perplexity": "stranger"}, "UNAVAILABLE", "holds no llama-perplexity"),
        ({"llama_perplexity": "nan"}, "INVALID", "not finite"),
        ({"llama_tokenize": "garbage"}, "CRASHED", "llama-tokenize did not print its result"),
    ],
)
def test_a_fault_is_a_verdict(
    programs: tuple[Project, Path], faults: dict[str, str], verdict: str, reason: str
) -> None:
    project, folder = programs
    set_faults(folder, **faults)
    status, (cell,) = record(project, "-k", "F16")
    assert status == 1
    assert cell["verdict"] == verdict
    assert reason in str(cell["reason"])


def test_a_quantizer_that_fails_leaves_the_other_cells(programs: tuple[Project, Path]) -> None:
    project, folder = programs
    set_faults(folder, llama_quantize="no file")
    status, (reference, other) = record(project)
    assert status == 1
    assert (reference["verdict"], other["verdict"]) == ("MEASURED", "CRASHED")


def test_a_plan_counts_the_base_file(programs: tuple[Project, Path]) -> None:
    """62 rows of two bytes for each of 259 tokens and four more, beside the tokens."""
    project, _ = programs
    result = project.run("--quant-plan", "--quant-formats=F16")
    n_bytes = 20 + 16 * (4 * 64 + 31 * 2 * (260 + 4))
    result.stdout.fnmatch_lines([f"*tiny-F16-cpu-fakes*disk*{n_bytes / 1e6:,.0f} MB*"])


def test_programs_that_are_not_there_are_unavailable(programs: tuple[Project, Path]) -> None:
    project, folder = programs
    (folder / "llama-quantize").unlink()
    status, cells = record(project)
    assert status == 1
    assert {cell["verdict"] for cell in cells} == {"UNAVAILABLE"}
    assert "there is no program llama-quantize in" in str(cells[0]["reason"])


def test_batch_geometry_and_codecs_are_unsupported(programs: tuple[Project, Path]) -> None:
    project, _ = programs
    project.configure(
        formats=("F16",),
        profile='engine = "fakes"\nchunk_order = "text"\nbatch_geometry = true',
        tables='[tool.quantgate.engines.fakes]\ntools = "bin"',
    )
    result = project.matrix()
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*UNSUPPORTED: llama.cpp's programs cannot answer CompareBatches*"]
    )
    codecs = project.run("--quant-codecs")
    assert codecs.ret != 0
    codecs.stdout.fnmatch_lines(["*llama.cpp's programs cannot answer ListCodecs*"])
    codecs.stdout.no_fnmatch_line("*INTERNALERROR*")
