"""Damaged baselines, run records and kept measurements: one line of our own, or measured anew."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
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
from pytest_quantgate.results.record import CellRecord, RunRecord, to_plain
from pytest_quantgate.results.record_file import read_record
from pytest_quantgate.storage.cache import Cache

SHIPPED = sorted(shipped_folder().glob("*/*Q4_K_M*.json"))[0].read_text(encoding="utf-8")
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 1e308, float("nan"), 2**70, "", "a\nb", "\x1b[31m", "x" * 5000, [], {}, [[]]]
)
DEEP = "[" * 100_000
NLL = np.array([[60 / 31] * 31, [70 / 31] * 31], np.float32)
TOPS = np.arange(62, dtype=np.int32).reshape(2, 31)
CHUNKS = ChunkTable(
    index=(0, 1), tokens=(31, 31), nll_sum_nats=(60.0, 70.0), token_ids=("a", "b"),
    top_tokens=tuple(hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in TOPS),
)  # fmt: skip
KEPT = PerplexityMeasurement(
    chunks=CHUNKS, summary=None, n_chunks_in_text=2, seconds_s=1.0, measured_s=1.0,
    nll_nats=NLL, top_tokens=TOPS,
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


RED = {"metric": "size", "against": "limit", "verdict": "REGRESSED", "reason": "size is above"}
NONE_OF_IT = ("max_kld_nats", "min_kld_nats", "mean_delta_p", "rms_delta_p")
HALF: dict[str, Any] = {
    **dict.fromkeys(NONE_OF_IT),
    "kld_percentiles_nats": {},
    "delta_p_percentiles": {},
    "by_confidence": [],
    "by_domain": [],
    "tokens": 62,
    "mean_kld_nats": 0.5,
    "mean_kld_error_nats": 0.1,
    "same_top": 0.5,
    "same_top_error": 0.1,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ppl": 5.0}, "ppl is 5.0, but its chunks give"),
        ({"verdict": "FINE"}, "is no verdict"),
        ({"judgements": [RED]}, "it is PASS, but size is REGRESSED"),
        ({"divergence": HALF, "chunks.kld_sum_nats": [1.0, 2.0]}, "mean_kld_nats is 0.5, but"),
        (
            {
                "divergence": {**HALF, "mean_kld_nats": 3.0 / 62},
                "chunks.kld_sum_nats": [1.0, 2.0],
                "chunks.same_top": [30, 30],
            },
            "same_top is 0.5, but",
        ),
        ({"chunks.domain": ["a", "b"], "ppl_by_domain": {"a": 2.0}}, "ppl of 'a' is 2.0, but"),
        ({"chunks.index": [1, 1]}, "a chunk is there twice"),
        ({"chunks.tokens": [31, 0]}, "a chunk has no tokens"),
        ({"file_bytes": 10, "bytes_by_type": {"F16": 11}}, "adds up to 11 of 10 bytes"),
    ],
)
def test_a_record_that_contradicts_itself(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    content = json.loads(record_text())
    for name, value in changes.items():
        table, _, column = name.rpartition(".")
        cell = content["cells"][0]
        (cell[table] if table else cell)[column] = value
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message) as error:
        read_record(tmp_path / "r.json")
    one_line(error.value)


def test_an_engine_without_a_name_is_damaged(tmp_path: Path) -> None:
    content = {**json.loads(record_text()), "engine": {"kind": "k", "version": "1"}}
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="is damaged: the engine has no cpu_name"):
        read_record(tmp_path / "r.json")


def test_a_kept_measurement_with_any_damaged_bit_is_whole_or_measured_anew(tmp_path: Path) -> None:
    """Of the archive's directory too, where a name could be lost without a checksum's notice."""
    store = Measurements(Cache(tmp_path, max_bytes=1 << 30))
    kept = KEPT
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


@pytest.mark.parametrize(
    "damaged",
    [
        replace(KEPT, chunks=CHUNKS.replace(nll_sum_nats=(59.0, 70.0))),
        replace(KEPT, chunks=CHUNKS.replace(top_tokens=("c" * 16, "d" * 16))),
        replace(KEPT, chunks=CHUNKS.replace(tokens=(31, 30))),
        replace(KEPT, chunks=CHUNKS.replace(index=(1, 1))),
        replace(KEPT, nll_nats=NLL[:1]),
        replace(KEPT, nll_nats=NLL[:, :30]),
        replace(KEPT, top_tokens=TOPS[::-1]),
        replace(
            KEPT,
            chunks=CHUNKS.replace(kld_sum_nats=(1.0, 2.0)),
            kld_nats=np.zeros((2, 31), np.float32),
        ),
    ],
    ids=["sum", "top tokens", "tokens", "a chunk twice", "a row", "a column", "order", "kld"],
)
def test_a_kept_measurement_that_contradicts_itself_is_measured_anew(
    tmp_path: Path, damaged: PerplexityMeasurement
) -> None:
    store = Measurements(Cache(tmp_path, max_bytes=1 << 30))
    store.store("whole", KEPT, is_reference=False)
    assert store.load("whole", is_reference=False) is not None
    store.store("key", damaged, is_reference=False)
    assert store.load("key", is_reference=False) is None
