"""How speed and memory changed: in one run pair by pair, else on equal hardware alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_quantgate import stats
from pytest_quantgate.results.measurements.memory import MemoryMeasurement
from pytest_quantgate.results.measurements.speed import PHASES, SpeedMeasurement
from pytest_quantgate.results.record import CellRecord

_SETTINGS = ("prefill_tokens", "decode_tokens", "depth", "n_batch", "n_ubatch")


@dataclass(frozen=True, kw_only=True)
class SpeedChange:
    """How many times the old speed a phase has, with the interval of 95 %.

    ``is_paired`` says that both sides' processes ran in turn; else they are of two sessions, and
    what moved between these is not in the interval.
    """

    phase: str
    ratio: float
    low: float
    high: float
    old_tokens_per_s: float
    new_tokens_per_s: float
    processes: int
    is_paired: bool


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The change of speed and memory; ``why_no_speed`` and ``why_no_peak`` say why one is missing.

    Both peaks are in bytes; None where one side has none or the hardware is another.
    """

    speed: tuple[SpeedChange, ...] = ()
    peak_bytes: tuple[int, int] | None = None
    why_no_speed: str = ""
    why_no_peak: str = ""


NO_COSTS = Costs()
"""Neither speed nor memory on both sides."""


def find_costs(old: CellRecord, new: CellRecord, *, is_one_run: bool) -> Costs:
    """Compare the speeds and memories that both sides have.

    Two engines of one run are builds of their own on one machine, which makes them comparable.
    """
    speed, why_no_speed = _speed(old, new, is_one_run=is_one_run)
    peak, why_no_peak = _peak(old, new, is_one_run=is_one_run)
    return Costs(speed=speed, peak_bytes=peak, why_no_speed=why_no_speed, why_no_peak=why_no_peak)


def _speed(
    old: CellRecord, new: CellRecord, *, is_one_run: bool
) -> tuple[tuple[SpeedChange, ...], str]:
    after, before = new.measured.get("speed"), old.measured.get("speed")
    if isinstance(after, SpeedMeasurement) and after.against and is_one_run:
        return tuple(_paired(phase, after) for phase in PHASES), ""
    if not isinstance(after, SpeedMeasurement) or not isinstance(before, SpeedMeasurement):
        return (), ""
    other = list(after.fingerprint.differences(before.fingerprint))
    other += [
        f"{name} {getattr(after, name)} (was {getattr(before, name)})"
        for name in _SETTINGS
        if getattr(after, name) != getattr(before, name)
    ]
    if other:
        return (), f"speed is of other hardware or settings: {'; '.join(other)}"
    return tuple(_unpaired(phase, before, after) for phase in PHASES), ""


def _paired(phase: str, found: SpeedMeasurement) -> SpeedChange:
    estimate = stats.slowdown(found.against_rates(phase), found.rates(phase))
    return _change(phase, estimate, found.against_rates(phase), found.rates(phase), is_paired=True)


def _unpaired(phase: str, before: SpeedMeasurement, after: SpeedMeasurement) -> SpeedChange:
    estimate = stats.slowdown_unpaired(before.rates(phase), after.rates(phase))
    return _change(phase, estimate, before.rates(phase), after.rates(phase), is_paired=False)


def _change(
    phase: str,
    estimate: stats.MeanEstimate,
    before: Sequence[float],
    after: Sequence[float],
    *,
    is_paired: bool,
) -> SpeedChange:
    low, high = stats.interval(estimate)
    return SpeedChange(
        phase=phase,
        ratio=math.exp(-estimate.mean),
        low=math.exp(-high),
        high=math.exp(-low),
        old_tokens_per_s=math.exp(-stats.slowness(before).mean),
        new_tokens_per_s=math.exp(-stats.slowness(after).mean),
        processes=min(len(before), len(after)),
        is_paired=is_paired,
    )


def _peak(
    old: CellRecord, new: CellRecord, *, is_one_run: bool
) -> tuple[tuple[int, int] | None, str]:
    after, before = new.measured.get("memory"), old.measured.get("memory")
    if not isinstance(after, MemoryMeasurement) or not isinstance(before, MemoryMeasurement):
        return None, ""
    now, then = after.peak_resident_bytes, before.peak_resident_bytes
    if now is None or then is None:
        return None, ""
    other = after.fingerprint.differences(before.fingerprint)
    if other and not is_one_run:
        return None, f"memory is of other hardware: {'; '.join(other)}"
    return (then, now), ""
