"""The same figures and bytes as llama.cpp's own programs: SmolLM2-135M on WikiText-2."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_quantgate.artifacts.files import CellFile
from pytest_quantgate.config import load_settings
from pytest_quantgate.metrics.divergence import measure_divergence
from pytest_quantgate.metrics.perplexity import PerplexityMeasurement
from pytest_quantgate.models.gguf_file import digest_tensors, read_gguf
from pytest_quantgate.run import Run

pytestmark = [pytest.mark.crosscheck, pytest.mark.slow]

CHUNKS = 16
FORMATS = ("F16", "Q8_0", "Q4_K_M", "Q2_K")
REFERENCE = Path(
    os.environ.get("QUANTGATE_REFERENCE", "../shared/reference/smollm2-wikitext2.json")
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run of ours."""

    run: Run
    files: dict[str, CellFile]
    scores: dict[str, PerplexityMeasurement]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, wikitext: Path) -> Measured:
    """All formats, in text order, 16 chunks of 512 tokens."""
    root = tmp_path_factory.mktemp("crosscheck")
    (root / "pyproject.toml").write_text(
        f"""
        [tool.quantgate]
        cache_dir = "cache"
        [tool.quantgate.texts.wikitext2]
        source = "{wikitext}"
        [tool.quantgate.profiles.default]
        models = ["smollm2"]
        formats = {json.dumps(FORMATS)}
        texts = ["wikitext2"]
        n_ctx = 512
        n_batch = 512
        n_threads = 2
        flash_attention = true
        chunks = {CHUNKS}
        chunk_order = "text"
        """
    )
    run = Run(load_settings(root), "crosscheck")
    try:
        files = {cell.format.name: run.cell_file(cell) for cell in run.cells}
        scores = {cell.format.name: run.perplexity(cell, CHUNKS) for cell in run.cells}
    finally:
        run.close()
    return Measured(run=run, files=files, scores=scores)


def running_perplexity(scores: PerplexityMeasurement) -> list[float]:
    """Return the perplexity after each chunk, as llama-perplexity prints it."""
    sums = np.cumsum([chunk.nll_sum_nats for chunk in scores.chunks])
    tokens = np.cumsum([chunk.tokens for chunk in scores.chunks])
    return [float(value) for value in np.exp(sums / tokens)]


@pytest.mark.parametrize("name", FORMATS)
def test_perplexity_equals_the_program_built_here(
    measured: Measured, llama_programs: Path, wikitext: Path, name: str
) -> None:
    done = subprocess.run(
        [
            str(llama_programs / "llama-perplexity"),
            *("-m", str(measured.files[name].path), "-f", str(wikitext)),
            *("-c", "512", "-b", "512", "-ub", "512", "-t", "2", "--chunks", str(CHUNKS)),
            *("-fa", "on", "-ngl", "0"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = [float(value) for value in re.findall(r"\[\d+\]([\d.]+),", done.stdout)]
    ours = running_perplexity(measured.scores[name])
    assert len(theirs) == CHUNKS
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize("name", FORMATS[1:])
def test_tensors_equal_those_of_the_program_built_here(
    measured: Measured, llama_programs: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / f"{name}.gguf"
    subprocess.run(
        [
            str(llama_programs / "llama-quantize"),
            *(str(measured.files["F16"].path), str(path), name, "2"),
        ],
        capture_output=True,
        check=True,
    )
    _, theirs = digest_tensors(read_gguf(path))
    assert measured.files[name].tensor_data_sha256 == theirs


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """Figures of another machine."""
    if not REFERENCE.is_file():
        pytest.skip(f"no file {REFERENCE}; QUANTGATE_REFERENCE names it")
    loaded: dict[str, Any] = json.loads(REFERENCE.read_text())
    return loaded


@pytest.mark.parametrize("name", FORMATS)
def test_figures_equal_the_stored_ones_on_their_kind_of_cpu(
    measured: Measured, reference: dict[str, Any], name: str
) -> None:
    system_info = measured.run.engine_facts("default")["system_info"]
    if "AVX512 = 1" in system_info or "AVX2 = 1" not in system_info:
        pytest.skip(f"the figures are of a CPU with AVX2 and no AVX-512, not of {system_info}")
    stored = reference["formats"][name]
    ours = running_perplexity(measured.scores[name])
    assert ours[-1] == pytest.approx(stored["ppl"], rel=1e-4)
    assert measured.files[name].tensor_data_sha256 == stored["tensor_data_sha256"]


@pytest.mark.parametrize("name", FORMATS)
def test_types_and_size_equal_the_stored_ones_on_any_cpu(
    measured: Measured, reference: dict[str, Any], name: str
) -> None:
    stored = reference["formats"][name]
    cell = next(cell for cell in measured.run.cells if cell.format.name == name)
    size = measured.run.size(cell)
    assert size.tensors_by_type == stored["tensor_types"]
    assert size.file_bytes == pytest.approx(stored["bytes"], rel=1e-4)
    # Another kind of CPU moves the fourth digit, not more.
    ours = running_perplexity(measured.scores[name])
    assert ours[-1] == pytest.approx(stored["ppl"], rel=5e-3)


@pytest.fixture(scope="module")
def base_file(
    measured: Measured,
    llama_programs: Path,
    wikitext: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """llama-perplexity's own base file of F16: 16-bit logits, 400 MB."""
    path = tmp_path_factory.mktemp("base") / "f16.kld"
    subprocess.run(
        [
            str(llama_programs / "llama-perplexity"),
            *("-m", str(measured.files["F16"].path), "-f", str(wikitext)),
            *("-c", "512", "-b", "512", "-ub", "512", "-t", "2", "--chunks", str(CHUNKS)),
            *("-fa", "on", "-ngl", "0", "--kl-divergence-base", str(path)),
        ],
        capture_output=True,
        check=True,
    )
    return path


def kl_divergence_of_the_program(programs: Path, model: Path, base: Path) -> dict[str, float]:
    """Return what ``llama-perplexity --kl-divergence`` prints."""
    done = subprocess.run(
        [
            str(programs / "llama-perplexity"),
            *("-m", str(model), "--kl-divergence-base", str(base), "--kl-divergence"),
            *("-c", "512", "-b", "512", "-ub", "512", "-t", "2", "-fa", "on", "-ngl", "0"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    found = {}
    for name, pattern in (
        ("mean", r"Mean\s+KLD:\s+([-\d.]+)"),
        ("median", r"Median\s+KLD:\s+([-\d.]+)"),
        ("p99", r"99\.0%\s+KLD:\s+([-\d.]+)"),
        ("rms_delta_p", r"RMS Δp\s+:\s+([-\d.]+)"),
        ("same_top", r"Same top p:\s+([-\d.]+)"),
    ):
        match = re.search(pattern, done.stdout)
        assert match is not None, f"no {name} in {done.stdout[-2000:]}"
        found[name] = float(match[1])
    return found


@pytest.mark.parametrize("name", FORMATS[1:])
def test_divergence_equals_the_program_built_here(
    measured: Measured,
    llama_programs: Path,
    base_file: Path,
    name: str,
) -> None:
    """Up to the program's own rounding: its base file holds 16-bit logits."""
    floor = abs(
        kl_divergence_of_the_program(llama_programs, measured.files["F16"].path, base_file)["mean"]
    )
    theirs = kl_divergence_of_the_program(llama_programs, measured.files[name].path, base_file)
    ours = measure_divergence(measured.scores[name], measured.scores["F16"])
    assert ours is not None
    assert abs(ours.mean_kld_nats - theirs["mean"]) <= 2e-3 * theirs["mean"] + floor
    assert abs(100 * ours.same_top - theirs["same_top"]) <= 0.1
    assert ours.rms_delta_p is not None
    assert 100 * ours.rms_delta_p == pytest.approx(theirs["rms_delta_p"], rel=2e-2)
