"""Whether this machine is quiet enough for the configured speed margin, measured.

One small model is timed against itself as a run times a format against its reference: fresh
processes, interleaved. The width of the interval around "no difference" is what matters: a speed
is judged only where it is within ``speed_margin``.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_quantgate import stats
from pytest_quantgate.cli.doctor.deadline import within
from pytest_quantgate.cli.doctor.engines import open_engine
from pytest_quantgate.cli.doctor.findings import Section, Severity
from pytest_quantgate.cli.doctor.project import Answer, Project
from pytest_quantgate.config.settings import Settings
from pytest_quantgate.engines.devices import default_threads, placement_of
from pytest_quantgate.engines.engine import Engine
from pytest_quantgate.engines.messages import MeasureSpeed
from pytest_quantgate.engines.messages.placement import CPU, Placement
from pytest_quantgate.errors import CellError, CellTimeout, CellUnavailable
from pytest_quantgate.gguf.embedded import EMBEDDED
from pytest_quantgate.gguf.formats import TENSOR_TYPES
from pytest_quantgate.hosts.device_locks import hold_device
from pytest_quantgate.metrics.speed import process_speed, run_interleaved
from pytest_quantgate.results.hardware import HostState, OutsideLoad, host_state
from pytest_quantgate.results.measurements.speed import BUSY_SHARE, PHASES, ProcessSpeed, rates

BUDGET_S = 25.0
"""After so long no further look is begun."""

_GRACE_S = 10.0  # what the processes up to the look that has begun may take longer
_MODEL = "olmoe-mini"
_PREFILL_TOKENS, _DECODE_TOKENS, _REPETITIONS = 512, 128, 3
_N_BATCH, _N_UBATCH = 2048, 512
_GOVERNOR = "performance"
_LEAST_PAIRS, _MOST_PAIRS = 2, 1000


@dataclass(frozen=True, kw_only=True)
class Quietness:
    """What was measured: the processes of both sides, and what else went on.

    ``is_whole``: no deadline ended it.
    """

    sides: tuple[tuple[ProcessSpeed, ...], tuple[ProcessSpeed, ...]]
    looks: tuple[int, ...]
    n_threads: int
    outside_cores: float | None
    before: HostState
    after: HostState
    seconds_s: float
    is_whole: bool

    @property
    def pairs(self) -> int:
        """Pairs of processes."""
        return min(map(len, self.sides))

    def width(self, phase: str) -> float:
        """Return the relative width of a phase's interval, infinite before two pairs."""
        if self.pairs < _LEAST_PAIRS:
            return math.inf
        return stats.relative_width(self._estimate(phase), self._share(self.pairs))

    def pairs_for(self, phase: str, margin: float) -> int | None:
        """Estimate how many pairs the margin takes, None where more than can be; see a look.

        The error sinks with the root of the number of pairs.
        """
        if self.pairs < _LEAST_PAIRS:
            return None
        estimate = self._estimate(phase)
        for pairs in range(stats.MIN_PROCESSES, _MOST_PAIRS):
            quantile = stats.t_quantile(pairs - 1, self._share(pairs))
            half = quantile * estimate.standard_error * math.sqrt(self.pairs / pairs)
            if 2 * half <= math.log1p(margin):
                return pairs
        return None

    def _estimate(self, phase: str) -> stats.MeanEstimate:
        one, other = (rates(side[: self.pairs], phase, 1) for side in self.sides)
        return stats.slowdown(one, other)

    def _share(self, pairs: int) -> float:
        """Return the share of the error that the look with so many pairs may use."""
        shares = stats.spending(self.looks, stats.ALPHA_REGRESSED)
        reached = [share for look, share in zip(self.looks, shares, strict=True) if look <= pairs]
        return reached[-1] if reached else shares[0]


def examine_quietness(section: Section, project: Project, budget_s: float = BUDGET_S) -> None:
    """Time a small model against itself, and hold the interval against the profile's margin."""
    settings = project.settings
    answer = project.answers.get(settings.profile.engine)
    if answer is None:
        section.say("not measured: the profile's engine does not answer")
        return
    placement = _placement(settings, answer)
    try:
        measured = measure_quietness(settings, placement, budget_s)
    except (CellError, OSError) as problem:
        first = str(problem).strip().partition("\n")[0]
        section.say(f"not measured: {first}")
        if not isinstance(problem, DeviceBusy):
            section.find(_severity(settings), problem, lead="no speed: ")
        return
    _judge(section, settings, measured, ",".join(placement.names))


def _severity(settings: Settings) -> Severity:
    """Return how grave it is that a speed cannot be judged here."""
    return Severity.ERROR if settings.profile.speed else Severity.WARNING


def _placement(settings: Settings, answer: Answer) -> Placement:
    """Return the profile's first device that is there, else the processor."""
    there = {device.name for device in answer.devices}
    for name in settings.profile.devices:
        placement = placement_of(settings.devices[name])
        if set(placement.names) <= there:
            return placement
    return Placement()


class DeviceBusy(CellUnavailable):
    """Another measurement of this user holds the device now."""


def measure_quietness(settings: Settings, placement: Placement, budget_s: float) -> Quietness:
    """Run fresh processes of one model on both sides until the margin is reached or time is up.

    Raises:
        CellError: the engine could not.

    """
    profile = settings.profile
    n_threads = profile.n_threads or default_threads()
    looks = stats.process_looks(profile.speed_processes)
    sides: tuple[list[ProcessSpeed], list[ProcessSpeed]] = ([], [])
    cpu_s: list[float] = []
    deadline_s = budget_s + _GRACE_S
    before, load, began_s = host_state(), OutsideLoad(), time.monotonic()

    def process(engine: Engine, side: list[ProcessSpeed]) -> ProcessSpeed:
        if time.monotonic() - began_s > deadline_s:
            raise CellTimeout("the deadline has passed")
        reply = engine.ask(_request(placement, n_threads))
        cpu_s.append(reply.cpu_s)
        side.append(process_speed(reply))
        return side[-1]

    def refuse(_waited_s: float) -> None:
        raise DeviceBusy("another measurement of yours is using the device")

    def work() -> None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            engine = open_engine(settings, profile.engine, Path(folder) / "log", deadline_s)
            held = ",".join(dict.fromkeys((CPU, *placement.names)))
            try:
                with hold_device(held, refuse):
                    run_interleaved(
                        [lambda: process(engine, sides[0]), lambda: process(engine, sides[1])],
                        looks,
                        profile.speed_margin,
                        budget_s,
                        lambda _done: None,
                    )
            finally:
                engine.close()

    is_whole = True
    try:
        within(deadline_s, work)
    except CellTimeout:
        is_whole = False
    return Quietness(
        sides=(tuple(sides[0]), tuple(sides[1])),
        looks=looks,
        n_threads=n_threads,
        outside_cores=load.cores(sum(cpu_s)),
        before=before,
        after=host_state(),
        seconds_s=time.monotonic() - began_s,
        is_whole=is_whole,
    )


def _request(placement: Placement, n_threads: int) -> MeasureSpeed:
    f16 = TENSOR_TYPES["F16"].number
    return MeasureSpeed(
        model=str(EMBEDDED / f"{_MODEL}.gguf"),
        device=placement.to_text(),
        n_threads=n_threads,
        flash_attention=True,
        type_k=f16,
        type_v=f16,
        n_prompt=_PREFILL_TOKENS,
        n_decode=_DECODE_TOKENS,
        n_depth=0,
        repetitions=_REPETITIONS,
        n_batch=_N_BATCH,
        n_ubatch=_N_UBATCH,
    )


def _judge(section: Section, settings: Settings, measured: Quietness, where: str) -> None:
    margin, most = settings.profile.speed_margin, settings.profile.speed_processes
    ended = "" if measured.is_whole else ", ended by the deadline"
    section.say(
        f"{_MODEL} against itself on {where}, {measured.n_threads} threads: {measured.pairs} pairs"
        f" of processes in {measured.seconds_s:.0f} s{ended}"
    )
    too_wide, needed = [], stats.MIN_PROCESSES
    for phase in PHASES:
        width, pairs = measured.width(phase), measured.pairs_for(phase, margin)
        reached = f"within {_percent(width)}" if math.isfinite(width) else "no interval"
        needs = "" if width <= margin or pairs is None else f"; that would take {pairs} pairs"
        section.say(f"  {phase}: {reached}, the margin is {_percent(margin)}{needs}")
        if pairs is None or pairs > most:
            too_wide.append(phase)
        else:
            needed = max(needed, pairs)
    section.say(*_state_lines(measured))
    if too_wide:
        disturbance = next(
            _disturbances(measured),
            Disturbance(what="", fix="raise speed_processes or speed_margin in the profile"),
        )
        because = f": {disturbance.what}" if disturbance.what else ""
        section.find(
            _severity(settings),
            f"this machine is not quiet enough to detect {_percent(margin)} of"
            f" {' and '.join(too_wide)} speed with speed_processes = {most}{because}",
            disturbance.fix,
        )
    else:
        section.say(f"quiet enough: {needed} of speed_processes = {most} pairs are enough")
    section.facts |= {
        "margin": margin,
        "pairs": measured.pairs,
        "width": {phase: _finite(measured.width(phase)) for phase in PHASES},
        "pairs_needed": {phase: measured.pairs_for(phase, margin) for phase in PHASES},
        "outside_cores": measured.outside_cores,
        "host": asdict(measured.after),
        "is_quiet": not too_wide,
    }


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """What disturbs a measurement of speed, and what to do."""

    what: str
    fix: str


def _disturbances(measured: Quietness) -> Iterator[Disturbance]:
    """Yield what disturbed, what matters most first."""
    state, outside = measured.after, measured.outside_cores
    if outside is not None and outside > BUSY_SHARE * measured.n_threads:
        what = f"other processes used {outside:.1f} cores meanwhile"
        yield Disturbance(what=what, fix="end what top shows, then repeat")
    heat = (measured.before.throttled, state.throttled)
    if None not in heat and heat[0] != heat[1]:
        what = "heat slowed the cores down meanwhile"
        yield Disturbance(what=what, fix="let it cool, then repeat")
    if state.on_battery:
        yield Disturbance(what="it runs on its battery", fix="connect the mains")
    if state.governor not in {None, _GOVERNOR}:
        what = f"its clock is governed by {state.governor!r}"
        yield Disturbance(what=what, fix=f"sudo cpupower frequency-set -g {_GOVERNOR}")


def _state_lines(measured: Quietness) -> list[str]:
    state, outside = measured.after, measured.outside_cores
    values = {
        "others used": None if outside is None else f"{outside:.2f} cores",
        "load": None if state.load_average is None else f"{state.load_average:.2f}",
        "governor": state.governor,
        "turbo": None if state.turbo is None else "on" if state.turbo else "off",
        "clock": None if state.clock_mhz is None else f"{state.clock_mhz:,.0f} MHz",
        "temperature": None if state.temperature_c is None else f"{state.temperature_c:.0f} °C",
        "slowed by heat": None if state.throttled is None else f"{state.throttled} times",
    }
    known = [f"{name} {value}" for name, value in values.items() if value is not None]
    hidden = [name for name, value in values.items() if value is None]
    lines = [", ".join(known)] if known else []
    return [*lines, f"not known on this platform: {', '.join(hidden)}"] if hidden else lines


def _percent(width: float) -> str:
    return f"{100 * width:.1f} %" if width < 10 else "more than 1000 %"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
