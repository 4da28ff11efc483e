"""Which processes run, in which order, until when."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pytest_quantgate.engines.messages import SpeedMeasured
from pytest_quantgate.errors import CellInvalid
from pytest_quantgate.metrics.speed import process_speed, run_interleaved
from pytest_quantgate.results.hardware import Fingerprint, host_state
from pytest_quantgate.results.measurements.speed import ProcessSpeed, SpeedMeasurement, rates

LOOKS = (5, 7, 10)


def process(prefill_ns: int = 1000, decode_ns: int = 1000) -> ProcessSpeed:
    """Return a process whose runs all took the same."""
    return ProcessSpeed(
        load_s=0.1,
        prefill_ns=(prefill_ns,) * 3,
        decode_ns=(decode_ns,) * 3,
        prefill_warmup_ns=(1, 1),
        decode_warmup_ns=(1, 1),
        prefill_is_warm=True,
        decode_is_warm=True,
    )


class Sides:
    """Two sides that note who ran, with a scatter in one phase of one of them."""

    def __init__(self, scatter: float = 0.0, phase: str = "decode") -> None:
        self.ran: list[str] = []
        self._scatter = scatter
        self._phase = phase
        self._random = np.random.default_rng(3)

    def __call__(self, name: str) -> Callable[[], ProcessSpeed]:
        def run() -> ProcessSpeed:
            self.ran.append(name)
            taken = int(1e9 * np.exp(self._random.normal(0, self._scatter)))
            if name == "A" or self._phase == "decode":
                return process(10**9, taken if name == "B" else 10**9)
            return process(taken, 10**9)

        return run


def go(sides: Sides, names: str = "AB", budget_s: float = 60) -> list[list[ProcessSpeed]]:
    """Run until it is enough."""
    return run_interleaved([sides(name) for name in names], LOOKS, 0.1, budget_s, lambda _n: None)


def test_even_rates_end_at_the_first_look_in_the_order_a_b_b_a() -> None:
    sides = Sides()
    found = go(sides)
    assert "".join(sides.ran) == "ABBAABBAAB"
    assert [len(side) for side in found] == [5, 5]


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_scatter_of_either_phase_brings_more_processes(phase: str) -> None:
    sides = Sides(0.5, phase)
    assert [len(side) for side in go(sides)] == [10, 10]


def test_some_scatter_ends_in_between() -> None:
    sides = Sides(0.008)
    assert len(go(sides)[0]) == 7


def test_a_phase_with_a_limit_ends_where_it_is_decided() -> None:
    """At this scatter neither interval is narrow after 7."""
    sides = Sides(0.05)
    found = run_interleaved(
        [sides(name) for name in "AB"],
        LOOKS,
        0.1,
        60,
        lambda _n: None,
        lambda sides: {"prefill": True, "decode": len(sides[0]) >= 7},
    )
    assert len(found[0]) == 7
    assert len(go(Sides(0.05))[0]) == 10


def test_a_budget_ends_it_but_not_before_the_first_look() -> None:
    assert len(go(Sides(0.5), budget_s=0)[0]) == 5


def test_a_reference_runs_by_itself() -> None:
    sides = Sides()
    (found,) = go(sides, "A")
    assert len(found) == 5
    assert sides.ran == ["A"] * 5


def test_progress_counts_processes() -> None:
    told: list[int] = []
    sides = Sides()
    run_interleaved([sides("A"), sides("B")], LOOKS, 0.1, 60, told.append)
    assert told == list(range(1, 11))


def test_a_process_is_as_fast_as_its_median_run() -> None:
    """One run that something else held up does not count."""
    one = ProcessSpeed(**{**vars(process()), "decode_ns": (10**9, 2 * 10**9, 30 * 10**9)})
    assert rates([one], "decode", 100) == (50.0,)


def test_a_measurement_tells_rates_and_ratios() -> None:
    measured = SpeedMeasurement(
        prefill_tokens=512,
        decode_tokens=128,
        depth=0,
        n_batch=2048,
        n_ubatch=512,
        cell=(process(10**9, 10**9),) * 5,
        reference=(process(2 * 10**9, 10**9),) * 5,
        looks=LOOKS,
        fingerprint=Fingerprint(cpu="", build="", n_threads=2, device="cpu", driver=""),
        host_before=host_state(),
        host_after=host_state(),
        outside_cores=0.3,
        seconds_s=1.0,
    )
    assert measured.tokens_per_s("prefill") == pytest.approx(512)
    assert measured.vs_reference("prefill") == pytest.approx((2, 2, 2))
    assert measured.vs_reference("decode") == pytest.approx((1, 1, 1))
    assert measured.disturbing_cores == 0.3


@pytest.mark.parametrize("times", [(), (0,), (1, -5)])
def test_a_clock_that_does_not_run_is_invalid(times: tuple[int, ...]) -> None:
    reply = SpeedMeasured(
        process_id=1,
        load_s=0.1,
        prefill_ns=(5,),
        decode_ns=times,
        prefill_warmup_ns=(),
        decode_warmup_ns=(),
        prefill_is_warm=True,
        decode_is_warm=True,
        decode_loop_ns=(),
        cpu_s=1.0,
        device_description="",
        driver="",
    )
    with pytest.raises(CellInvalid, match="clock"):
        process_speed(reply)
