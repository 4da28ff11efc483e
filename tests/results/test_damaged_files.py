"""Damaged baselines, run records and kept measurements: one line of our own, or measured anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.results.baseline_file import parse
from pytest_quantgate.results.baseline_store import shipped_folder
from pytest_quantgate.results.chunk_table import ChunkTable
from pytest_quantgate.results.measurement_store import Measurements
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement
from pytest_quantgate.results.record import CellRecord, RunRecord, read_record, to_plain
from pytest_quantgate.storage.cache import Cache

SHIPPED = sorted(shipped_folder().glob("*/*Q4_K_M*.json"))[0].read_text(encoding="utf-8")
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 1e308, float("nan"), 2**70, "", "a\nb", "\x1b[31m", "x" * 5000, [], {}, [[]]]
)
DEEP = "[" * 100_000
CHUNKS = ChunkTable(
    index=(0, 1), tokens=(31, 31), nll_sum_nats=(60.0, 70.0), token_ids=("a", "b"),
    top_tokens=("c", "d"),
)  # fmt: skip


def places(value: Any) -> list[list[str | int]]:
    """Return the paths to all values of some JSON but its root."""
    keys = value if isinstance(value, dict) else range(len(value))
    ways: list[list[str | int]] = []
    for key in keys:
        ways.append([key])
        if isinstance(value[key], dict | list):
            ways += [[key, *rest] for rest in places(value[key])]
    return ways


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """Draw JSON of which one value is another, missing or beside an unknown one."""
    content: Any = json.loads(text)
    *way, last = draw(st.sampled_from(places(content)))
    inner = content
    for key in way:
        inner = inner[key]
    if draw(st.booleans()):
        inner[last] = draw(ODD)
    elif isinstance(inner, dict) and draw(st.booleans()):
        inner["odd\n"] = draw(ODD)
    else:
        del inner[last]
    return json.dumps(content)


def one_line(error: ConfigError) -> None:
    """Check that a message is for a reader."""
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 600


def record_text() -> str:
    """Return a run record of one cell."""
    cell = CellRecord(
        id="m-F16-cpu", model="m", format="F16", imatrix=None, device="cpu", engine="e", text="t",
        is_reference=True, reference="F16", is_requantized=False, is_miniature=False,
        verdict="PASS", reason="every limit is kept", ppl=CHUNKS.perplexity, chunks=CHUNKS,
    )  # fmt: skip
    run = RunRecord(
        profile="p", gated=True, settings={}, engine={}, cells=(cell,), started="", seconds_s=1.0
    )
    return json.dumps(to_plain(run))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=damaged(SHIPPED))
def test_a_damaged_baseline(text: str) -> None:
    try:
        parse(text, "b.json")
    except ConfigError as error:
        one_line(error)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=damaged(record_text()))
def test_a_damaged_record(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    try:
        read_record(path)
    except ConfigError as error:
        one_line(error)


@pytest.mark.parametrize("text", [DEEP, '{"version": [2]}', '{"version": 2, "cells": 1}', "\x00"])
def test_json_that_is_none_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ConfigError) as of_record:
        read_record(tmp_path / "r.json")
    one_line(of_record.value)
    with pytest.raises(ConfigError) as of_baseline:
        parse(text, "b.json")
    one_line(of_baseline.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("ppl", 5.0, "its chunks give"), ("verdict", "FINE", "is no verdict")],
)
def test_a_record_that_contradicts_itself(
    tmp_path: Path, name: str, value: Any, message: str
) -> None:
    content = json.loads(record_text())
    content["cells"][0][name] = value
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        read_record(tmp_path / "r.json")


def test_a_kept_measurement_with_any_damaged_bit_is_whole_or_measured_anew(tmp_path: Path) -> None:
    """Of the archive's directory too, where a name could be lost without a checksum's notice."""
    store = Measurements(Cache(tmp_path, max_bytes=1 << 30))
    kept = PerplexityMeasurement(
        chunks=CHUNKS, summary=None, n_chunks_in_text=2, seconds_s=1.0, measured_s=1.0,
        nll_nats=np.ones((2, 31), np.float32), top_tokens=np.ones((2, 31), np.int32),
    )  # fmt: skip
    store.store("key", kept, is_reference=False)
    path = tmp_path / "measurements" / "key.npz"
    data = path.read_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        read = store.load("key", is_reference=False)
        if read is not None:
            assert read.chunks == kept.chunks
            assert kept.nll_nats is not None
            assert kept.top_tokens is not None
            assert read.nll_nats is not None
            assert read.top_tokens is not None
            assert np.array_equal(read.nll_nats, kept.nll_nats)
            assert np.array_equal(read.top_tokens, kept.top_tokens)
