"""Whether a machine is quiet enough for a margin."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_quantgate import stats
from pytest_quantgate.cli.doctor import quietness
from pytest_quantgate.cli.doctor.findings import Section, Severity
from pytest_quantgate.cli.doctor.project import Answer, project_of
from pytest_quantgate.cli.doctor.quietness import Quietness, examine_quietness
from pytest_quantgate.engines.messages import EngineDevice, MeasureSpeed, SpeedMeasured
from pytest_quantgate.hosts.device_locks import hold_device
from pytest_quantgate.results.hardware import HostState, OutsideLoad, host_state
from pytest_quantgate.results.measurements.speed import ProcessSpeed
from tests.cli.doctor.conftest import Configure, examined

CPU = EngineDevice(name="cpu", description="", free_bytes=0, total_bytes=0)
ANSWERS = {
    "default": Answer(identity=None, devices=(CPU,), seconds_s=0.0)  # type: ignore[arg-type]
}
STATE = HostState(
    clock_mhz=None, governor=None, load_average=None, temperature_c=None, on_battery=None
)


class Clock:
    """An engine whose processes scatter by so much, and take so long."""

    def __init__(self, scatter: float, takes_s: float = 0.0) -> None:
        self._random = np.random.default_rng(1)
        self._scatter = scatter
        self._takes_s = takes_s

    def ask(self, request: Any, on_reply: Any = None) -> SpeedMeasured:
        del on_reply
        assert isinstance(request, MeasureSpeed)
        time.sleep(self._takes_s)
        ns = [int(1e8 * math.exp(self._random.normal(0, self._scatter))) for _ in range(2)]
        return SpeedMeasured(
            process_id=1,
            load_s=0.0,
            prefill_ns=(ns[0],),
            decode_ns=(ns[1],),
            prefill_warmup_ns=(),
            decode_warmup_ns=(),
            prefill_is_warm=True,
            decode_is_warm=True,
            decode_loop_ns=(),
            cpu_s=0.0,
            device_description="",
            driver="",
        )

    def close(self) -> None:
        pass


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what replaces the engine, with nothing disturbing it."""

    def replace_by(made: Clock, state: HostState = STATE) -> None:
        monkeypatch.setattr(quietness, "open_engine", lambda *_arguments: made)
        monkeypatch.setattr(quietness, "host_state", lambda: state)

    return replace_by


def examine(configure: Configure, profile: str = "speed = true", budget_s: float = 5.0) -> Section:
    project = project_of(configure(profile=profile))
    project.answers.update(ANSWERS)
    return examined(examine_quietness, project, budget_s)


def test_a_quiet_machine(configure: Configure, engine: Any) -> None:
    engine(Clock(0.005))
    section = examine(configure)
    assert section.findings == []
    assert section.facts["is_quiet"]
    assert section.facts["pairs"] == 5
    assert section.lines[-1].startswith("quiet enough: 5 of speed_processes = 40 pairs")


def test_a_machine_that_scatters(configure: Configure, engine: Any) -> None:
    engine(Clock(0.5))
    (finding,) = examine(configure).findings
    assert finding.severity is Severity.ERROR
    assert finding.what.startswith(
        "this machine is not quiet enough to detect 10.0 % of prefill and decode speed"
    )
    (finding,) = examine(configure, profile="speed = false").findings
    assert finding.severity is Severity.WARNING, "nobody asked for speed"


@contextmanager
def loading_processes() -> Iterator[None]:
    """Keep two cores busy."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(2)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_machine_that_others_keep_busy(configure: Configure, engine: Any) -> None:
    engine(Clock(0.5, takes_s=0.1))
    with loading_processes():
        section = examine(configure)
    if section.facts["outside_cores"] is None:
        pytest.skip("the platform tells no processor's times")
    assert section.facts["outside_cores"] > 0.3
    (finding,) = section.findings
    assert "other processes used" in finding.what
    assert finding.mend == "end what top shows, then repeat"


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        (replace(STATE, governor="powersave"), "its clock is governed by 'powersave'"),
        (replace(STATE, on_battery=True), "it runs on its battery"),
    ],
)
def test_a_cause_that_the_platform_tells(
    configure: Configure,
    engine: Any,
    monkeypatch: pytest.MonkeyPatch,
    state: HostState,
    cause: str,
) -> None:
    engine(Clock(0.5), state)
    monkeypatch.setattr(OutsideLoad, "cores", lambda _self, _children_s: 0.0)
    (finding,) = examine(configure).findings
    assert cause in finding.what


def test_processes_that_do_not_end_are_not_waited_for(
    configure: Configure, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quietness, "_GRACE_S", 0.5)
    engine(Clock(0.01, takes_s=1.5))
    began_s = time.monotonic()
    section = examine(configure, budget_s=0.5)
    assert time.monotonic() - began_s < 10
    assert "0 pairs" in section.lines[0]
    assert "ended by the deadline" in section.lines[0]
    assert not section.facts["is_quiet"]
    assert section.facts["width"] == {"prefill": None, "decode": None}


def test_a_device_that_another_measurement_uses_is_not_measured(
    configure: Configure, engine: Any
) -> None:
    engine(Clock(0.01))
    with hold_device("cpu"):
        section = examine(configure)
    assert section.findings == []
    assert section.lines == ["not measured: another measurement of yours is using the device"]


def test_an_engine_that_did_not_answer_is_not_asked_again(configure: Configure) -> None:
    section = examined(examine_quietness, configure())
    assert section.lines == ["not measured: the profile's engine does not answer"]


def processes(scatter: float, pairs: int) -> Quietness:
    """Return a measurement of so many pairs."""
    random = np.random.default_rng(3)

    def side() -> tuple[ProcessSpeed, ...]:
        ns = [int(1e8 * math.exp(random.normal(0, scatter))) for _ in range(pairs)]
        return tuple(
            ProcessSpeed(
                load_s=0.0,
                prefill_ns=(item,),
                decode_ns=(item,),
                prefill_warmup_ns=(),
                decode_warmup_ns=(),
                prefill_is_warm=True,
                decode_is_warm=True,
            )
            for item in ns
        )

    return Quietness(
        sides=(side(), side()),
        looks=stats.process_looks(14),
        n_threads=1,
        outside_cores=None,
        before=STATE,
        after=STATE,
        seconds_s=1.0,
        is_whole=True,
    )


def test_the_pairs_that_a_margin_takes_are_right_on_average() -> None:
    """From 10 pairs it tells what 40 pairs give: the margin that these reach."""
    few, many = processes(0.05, 10), processes(0.05, 40)
    margin = many.width("prefill")
    told = few.pairs_for("prefill", margin)
    assert told is not None
    assert 15 < told < 90
    assert few.pairs_for("prefill", 1e-9) is None
    assert processes(0.05, 1).width("prefill") == math.inf


def test_the_real_engine_is_timed(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tokens: whether it ends with figures, not whether this machine is quiet."""
    for name, value in (("_PREFILL_TOKENS", 16), ("_DECODE_TOKENS", 4), ("_REPETITIONS", 1)):
        monkeypatch.setattr(quietness, name, value)
    section = examine(configure, profile="speed_processes = 5", budget_s=60.0)
    assert section.facts["pairs"] == 5
    assert section.facts["width"]["decode"] > 0
    assert isinstance(host_state(), HostState)
