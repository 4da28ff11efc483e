"""Fingerprints of hardware, and what the platform tells of its state."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from pytest_quantgate.results.hardware import Fingerprint, HostState, OutsideLoad, host_state

MINE = Fingerprint(
    cpu="Some CPU", build="CPU : AVX2 = 1 | FMA = 1 |", n_threads=4, device="cpu", driver=""
)


def test_equal_hardware_has_equal_digests() -> None:
    assert MINE.digest == replace(MINE).digest
    assert len(MINE.digest) == 16
    assert MINE.differences(MINE) == ()


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"cpu": "Other CPU"}, "CPU Some CPU (was Other CPU)"),
        ({"n_threads": 2}, "threads 4 (was 2)"),
        ({"device": "GPU X"}, "device cpu (was GPU X)"),
        ({"driver": "550.1"}, "driver unknown (was 550.1)"),
        (
            {"build": "CPU : AVX2 = 1 | AVX512 = 1 | FMA = 1 |"},
            "instruction sets and build options none (was AVX512 = 1)",
        ),
    ],
)
def test_each_part_counts_and_is_named(changes: dict[str, object], phrase: str) -> None:
    other = replace(MINE, **changes)  # type: ignore[arg-type]
    assert other.digest != MINE.digest
    assert MINE.differences(other) == (phrase,)


def test_values_do_not_run_into_each_other() -> None:
    """A part's end is no other part's beginning."""
    one = replace(MINE, cpu="a", device="b c")
    other = replace(MINE, cpu="a b", device="c")
    assert one.digest != other.digest


def test_the_state_is_what_the_platform_tells() -> None:
    state = host_state()
    assert isinstance(state, HostState)
    for value in (state.clock_mhz, state.temperature_c):
        assert value is None or value > 0
    assert state.load_average is None or state.load_average >= 0


def test_work_of_its_own_is_not_others() -> None:
    """A second of this process alone counts as none, and as one if it is another's."""
    load = OutsideLoad()
    end_s = time.process_time() + 0.5
    while time.process_time() < end_s:
        pass
    seen = load.cores(0.0)
    if seen is None:
        pytest.skip("the platform tells no processor's times")
    fewer = load.cores(children_s=0.4)
    assert fewer is not None
    assert 0 <= fewer <= seen
