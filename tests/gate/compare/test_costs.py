"""Speed and memory of two records: compared on equal hardware, else told what differs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_quantgate.gate.compare.cell import CellChange, Side, compare_cells
from pytest_quantgate.gate.compare.comparison import compare_engines, compare_records
from pytest_quantgate.reports.markdown import markdown
from pytest_quantgate.reports.upgrade.report import upgrade_blocks
from pytest_quantgate.results.hardware import Fingerprint, host_state
from pytest_quantgate.results.measurements.memory import MemoryMeasurement
from pytest_quantgate.results.measurements.speed import SpeedMeasurement
from pytest_quantgate.results.record import CellRecord
from pytest_quantgate.results.verdicts import VerdictKind
from tests.gate.compare.records import run_of, scored
from tests.metrics.test_speed import process

MACHINE = Fingerprint(cpu="c", build="AVX2", n_threads=2, device="cpu", driver="")
ELSEWHERE = replace(MACHINE, cpu="another")


def speed(decode_ns: int, **changes: Any) -> SpeedMeasurement:
    """Return a speed whose processes scatter by some per mille."""
    cells = tuple(process(1000 + n, decode_ns + n) for n in range(5))
    usual = SpeedMeasurement(
        prefill_tokens=512,
        decode_tokens=128,
        depth=0,
        n_batch=512,
        n_ubatch=512,
        cell=cells,
        reference=(),
        looks=(5, 7),
        fingerprint=MACHINE,
        host_before=host_state(),
        host_after=host_state(),
        outside_cores=0.0,
        seconds_s=1.0,
    )
    return replace(usual, **changes)


def memory(peak_bytes: int, fingerprint: Fingerprint = MACHINE) -> MemoryMeasurement:
    """Return a peak."""
    return MemoryMeasurement(
        peak_resident_bytes=peak_bytes,
        resident_before_bytes=1,
        load_s=0.1,
        buffers=(),
        devices=(),
        n_ctx=512,
        n_batch=512,
        n_ubatch=512,
        fingerprint=fingerprint,
    )


def measured(engine: str, **found: Any) -> CellRecord:
    return scored(engine=engine, measured=found)


def change(old: CellRecord, new: CellRecord) -> CellChange:
    return compare_cells(Side(cell=old), Side(cell=new))


def test_decoding_alone_became_slower() -> None:
    found = change(measured("old", speed=speed(1000)), measured("new", speed=speed(1250)))
    prefill, decode = found.costs.speed
    assert prefill.phase == "prefill"
    assert prefill.ratio == pytest.approx(1.0)
    assert decode.ratio == pytest.approx(0.8, abs=0.001)
    assert decode.low < decode.ratio < decode.high
    assert not decode.is_paired
    assert found.verdict.kind is VerdictKind.REGRESSED
    assert found.verdict.reason.startswith("decode −19.")
    assert "against the old record" in found.verdict.reason
    assert found.moved
    assert not found.quality_moved
    assert found.cause_name == "runtime kernels"


def test_a_speed_of_other_hardware_is_not_compared() -> None:
    old, new = measured("old", speed=speed(1000)), measured("new", speed=speed(5000))
    other = replace(new, measured={"speed": speed(5000, fingerprint=ELSEWHERE)})
    found = change(old, other)
    assert found.verdict.kind is VerdictKind.PASS
    assert found.costs.speed == ()
    why = "speed is of other hardware or settings: CPU another (was c)"
    assert found.costs.why_no_speed == why
    shorter = change(old, replace(new, measured={"speed": speed(5000, decode_tokens=64)}))
    assert "decode_tokens 64 (was 128)" in shorter.costs.why_no_speed
    assert shorter.verdict.kind is VerdictKind.PASS
    text = markdown(upgrade_blocks(compare_records(run_of(old), run_of(other))))
    assert f"- not compared: {why}" in text
    assert "- memory was not measured" in text
    assert "speed was not measured" not in text


def test_memory_is_compared_on_equal_hardware() -> None:
    found = change(measured("old", memory=memory(100)), measured("new", memory=memory(120)))
    assert found.costs.peak_bytes == (100, 120)
    assert found.verdict.kind is VerdictKind.REGRESSED
    other = measured("new", memory=memory(120, ELSEWHERE))
    found = change(measured("old", memory=memory(100)), other)
    assert found.costs.peak_bytes is None
    assert found.costs.why_no_peak == "memory is of other hardware: CPU another (was c)"
    assert found.verdict.kind is VerdictKind.PASS


def test_processes_that_ran_in_turn_are_pairs_in_their_run_alone() -> None:
    """The same record in another comparison is of its own session."""
    against = tuple(process(1000, 1000 + n) for n in range(5))
    new = measured("new", speed=speed(2000, against=against))
    in_run = compare_engines(run_of(new, others=[scored(engine="old")]))
    assert in_run is not None
    decode = in_run.cells[0].costs.speed[1]
    assert decode.is_paired
    assert decode.ratio == pytest.approx(0.5, abs=0.001)
    assert decode.processes == 5
    later = change(measured("old", speed=speed(2000)), new)
    assert [item.ratio for item in later.costs.speed] == [pytest.approx(1.0)] * 2
    assert later.verdict.kind is VerdictKind.PASS
