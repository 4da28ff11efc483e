"""The real model: published figures, and what must be said of its formats."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.gate.loop import answer
from pytest_quantgate.gate.question import Question
from pytest_quantgate.matrix.cells import Cell
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.metrics.scoring import measure_perplexity
from pytest_quantgate.results.measurements.size import SizeMeasurement, measure_size


@pytest.fixture
def run(tmp_path: Path, shared_cache: Path, wikitext: Path) -> Iterator[Session]:
    """Two chunks of WikiText-2 in text order."""
    (tmp_path / "pyproject.toml").write_text(
        f"""
        [tool.quantgate]
        cache_dir = {json.dumps(str(shared_cache))}
        [tool.quantgate.texts.wikitext2]
        source = {json.dumps(str(wikitext))}
        [tool.quantgate.profiles.default]
        models = ["smollm2"]
        formats = ["F16", "Q4_K_M", "MXFP4_MOE"]
        texts = ["wikitext2"]
        chunks = 2
        chunk_order = "text"
        """
    )
    made = Session(load_settings(tmp_path), "smollm2")
    yield made
    made.close()


def size_of(run: Session, cell: Cell) -> SizeMeasurement:
    """Measure a cell's size."""
    return measure_size(run.artifacts.file(run.resolve(cell)).header, cell.format)


def test_perplexity_is_the_published_one(run: Session) -> None:
    """12.9547 and 21.3756 after one and two chunks, on a CPU of any kind."""
    reference = run.matrix.cells[0]
    seen = measure_perplexity(run, run.resolve(reference), 2)
    first = seen.first(1)
    assert math.isclose(first.perplexity, 12.9547, rel_tol=5e-3)
    assert math.isclose(seen.perplexity, 21.3756, rel_tol=5e-3)
    assert seen.chunks.tokens == (255, 255)


def test_formats_that_fell_back_or_had_no_effect_are_said_aloud(run: Session) -> None:
    """A hidden size of 576 is no multiple of 256, and a dense model has no experts."""
    size = size_of(run, run.matrix.cells[1])
    assert size.fallback_fraction > 0.5
    assert "Q5_0" in size.bytes_by_type
    assert size_of(run, run.matrix.cells[2]).no_effect
    record = answer(run, run.matrix.cells[2], [Question(metric="size", limits=None)]).record
    assert record.is_requantized
    assert any(note.startswith("had no effect: no tensor is MXFP4") for note in record.notes)
