"""The same figures and bytes as llama.cpp's own programs: SmolLM2-135M on WikiText-2.

The programs are asked through the engine of programs, so that one is the other's oracle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_quantgate.artifacts.files import CellFile
from pytest_quantgate.config.options import Overrides
from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.engines.messages import Message, Score, SummedChunk
from pytest_quantgate.gate.run_record import engine_facts
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.metrics.divergence import measure_divergence
from pytest_quantgate.metrics.scoring import measure_perplexity, reference_folder
from pytest_quantgate.results.measurements.divergence import DivergenceMeasurement
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement
from pytest_quantgate.results.measurements.size import measure_size

pytestmark = [pytest.mark.crosscheck, pytest.mark.slow]

CHUNKS = 16
FORMATS = ("F16", "Q8_0", "Q4_K_M", "Q2_K", "MXFP4_MOE")
REFERENCE = Path(
    os.environ.get("QUANTGATE_REFERENCE", "../shared/reference/smollm2-wikitext2.json")
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One engine's run: files, scores and divergences by format."""

    run: Session
    files: dict[str, CellFile]
    scores: dict[str, PerplexityMeasurement]

    def divergence(self, name: str) -> DivergenceMeasurement:
        """Return a format's divergence from F16."""
        found = measure_divergence(self.scores[name], self.scores["F16"])
        assert found is not None
        return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, wikitext: Path, llama_programs: Path) -> Path:
    """A project: all formats, in text order, 16 chunks of 512 tokens, two engines."""
    folder = tmp_path_factory.mktemp("crosscheck")
    (folder / "pyproject.toml").write_text(
        f"""
        [tool.quantgate]
        cache_dir = "cache"
        [tool.quantgate.texts.wikitext2]
        source = {json.dumps(str(wikitext))}
        [tool.quantgate.engines.in-process]
        [tool.quantgate.engines.programs]
        tools = {json.dumps(str(llama_programs))}
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
    return folder


def measure(root: Path, engine: str) -> Iterator[Measured]:
    """Measure all formats with one engine."""
    run = Session(load_settings(root, Overrides(engine=engine)), engine)
    try:
        cells = {cell.format.name: run.resolve(cell) for cell in run.matrix.cells}
        yield Measured(
            run=run,
            files={name: run.artifacts.file(cell) for name, cell in cells.items()},
            scores={name: measure_perplexity(run, cell, CHUNKS) for name, cell in cells.items()},
        )
    finally:
        run.close()


@pytest.fixture(scope="module")
def ours(root: Path) -> Iterator[Measured]:
    """What is measured in process."""
    yield from measure(root, "in-process")


@pytest.fixture(scope="module")
def theirs(root: Path) -> Iterator[Measured]:
    """What llama.cpp's programs measure."""
    yield from measure(root, "programs")


@pytest.fixture(scope="module")
def floor_nats(theirs: Measured) -> float:
    """The divergence of F16 from itself through the programs' base file of 16-bit logits."""
    run = theirs.run
    cell = run.matrix.cells[0]
    told: list[Message] = []
    text = run.library.text(cell.text)
    run.engines[cell.engine].ask(
        Score(
            model=str(theirs.files["F16"].path),
            device="cpu",
            text=str(run.cache.text(text.data, text.sha256)),
            chunks=tuple(range(CHUNKS)),
            n_ctx=512,
            n_batch=512,
            n_ubatch=512,
            n_threads=2,
            flash_attention=True,
            type_k=1,
            type_v=1,
            reference=str(reference_folder(run, run.resolve(cell))),
        ),
        told.append,
    )
    chunks = [reply for reply in told if isinstance(reply, SummedChunk)]
    sums = [chunk.kld_sum_nats for chunk in chunks if chunk.kld_sum_nats is not None]
    assert len(sums) == CHUNKS
    return abs(sum(sums)) / sum(chunk.tokens for chunk in chunks)


def running_perplexity(scores: PerplexityMeasurement) -> list[float]:
    """Return the perplexity after each chunk, as llama-perplexity prints it."""
    sums = np.cumsum(scores.chunks.nll_sum_nats)
    tokens = np.cumsum(scores.chunks.tokens)
    return [float(value) for value in np.exp(sums / tokens)]


@pytest.mark.parametrize("name", FORMATS)
def test_perplexity_equals_the_programs_to_the_digits_printed(
    ours: Measured, theirs: Measured, name: str
) -> None:
    """4 decimals, and half a unit in the last of ours."""
    np.testing.assert_allclose(
        running_perplexity(ours.scores[name]),
        running_perplexity(theirs.scores[name]),
        rtol=0,
        atol=1e-4,
    )


@pytest.mark.parametrize("name", FORMATS)
def test_tokens_tensors_and_bytes_equal_the_programs(
    ours: Measured, theirs: Measured, name: str
) -> None:
    ids = [side.scores[name].chunks.token_ids for side in (ours, theirs)]
    assert ids[0] == ids[1]
    assert ours.files[name].tensor_data_sha256 == theirs.files[name].tensor_data_sha256
    assert ours.files[name].header.n_bytes == theirs.files[name].header.n_bytes
    documents = [side.scores[name].chunks.document for side in (ours, theirs)]
    assert documents[0] == documents[1]


@pytest.mark.parametrize("name", FORMATS[1:])
def test_divergence_equals_the_programs(
    ours: Measured, theirs: Measured, floor_nats: float, name: str
) -> None:
    """Up to the programs' own rounding: their base file holds 16-bit logits."""
    mine, other = ours.divergence(name), theirs.divergence(name)
    assert abs(mine.mean_kld_nats - other.mean_kld_nats) <= 2e-3 * other.mean_kld_nats + floor_nats
    assert abs(mine.same_top - other.same_top) <= 1e-3
    assert mine.rms_delta_p == pytest.approx(other.rms_delta_p, rel=2e-2)
    for percent in ("99.9", "99", "95", "90", "50"):
        theirs_nats = other.kld_percentiles_nats[percent]
        assert mine.kld_percentiles_nats[percent] == pytest.approx(theirs_nats, rel=2e-2, abs=1e-4)


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """Figures of another machine."""
    if not REFERENCE.is_file():
        pytest.skip(f"no file {REFERENCE}; QUANTGATE_REFERENCE names it")
    loaded: dict[str, Any] = json.loads(REFERENCE.read_text())
    return loaded


@pytest.mark.parametrize("engine", ["ours", "theirs"])
@pytest.mark.parametrize("name", FORMATS)
def test_figures_equal_the_stored_ones_on_their_kind_of_cpu(
    reference: dict[str, Any],
    floor_nats: float,
    name: str,
    engine: str,
    request: pytest.FixtureRequest,
) -> None:
    measured: Measured = request.getfixturevalue(engine)
    cell = measured.run.matrix.cells[0]
    system_info = engine_facts(measured.run, cell.engine)["system_info"]
    if "AVX512 = 1" in system_info or "AVX2 = 1" not in system_info:
        pytest.skip(f"the figures are of a CPU with AVX2 and no AVX-512, not of {system_info}")
    stored = reference["formats"][name]
    assert measured.scores[name].perplexity == pytest.approx(stored["ppl"], rel=1e-4)
    assert measured.files[name].tensor_data_sha256 == stored["tensor_data_sha256"]
    if name == "F16":
        return
    found = measured.divergence(name)
    allowed = 2e-3 * stored["kld_mean"] + floor_nats
    assert abs(found.mean_kld_nats - stored["kld_mean"]) <= allowed
    assert abs(found.same_top - stored["same_top_percent"] / 100) <= 1e-3


@pytest.mark.parametrize("name", FORMATS)
def test_types_and_size_equal_the_stored_ones_on_any_cpu(
    ours: Measured, reference: dict[str, Any], name: str
) -> None:
    stored = reference["formats"][name]
    cell = next(cell for cell in ours.run.matrix.cells if cell.format.name == name)
    size = measure_size(ours.files[name].header, cell.format)
    assert size.tensors_by_type == stored["tensor_types"]
    assert size.file_bytes == pytest.approx(stored["bytes"], rel=1e-4)
    # Another kind of CPU moves the fourth digit, not more.
    assert ours.scores[name].perplexity == pytest.approx(stored["ppl"], rel=5e-3)
