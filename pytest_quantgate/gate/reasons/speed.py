"""Speeds: ratios, changes and floors of a phase."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_quantgate import stats
from pytest_quantgate.gate.observation import Versus
from pytest_quantgate.gate.reasons.changes import noun
from pytest_quantgate.gate.reasons.words import percent
from pytest_quantgate.results.verdicts import Against, Fact


@dataclass(frozen=True, kw_only=True)
class Bounded:
    """A ratio, a change or a rate with the bounds that decide."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class OfPhase(Fact):
    """What holds for one phase."""

    phase: str
    fact: Fact

    def __str__(self) -> str:
        return f"{self.phase}: {self.fact}"


@dataclass(frozen=True, kw_only=True)
class NotBesideReference(Fact):
    """A limit against the reference where two engines are compared."""

    limit: float

    def __str__(self) -> str:
        return (
            f"at least {_times(self.limit)} the reference is not judged where two engines are"
            " compared; run without --quant-against"
        )


@dataclass(frozen=True, kw_only=True)
class RatioToReference(Fact):
    """A phase's ratio to the reference, process by process."""

    phase: str
    ratio: Bounded
    after: tuple[float, ...]
    before: tuple[float, ...]
    limit: float

    def __str__(self) -> str:
        ratio = self.ratio
        return (
            f"{self.phase} {_times(ratio.value)} the reference"
            f" [{_times(ratio.low)}, {_times(ratio.high)}] over {len(self.after)} pairs of"
            f" processes ({_mean(self.after)} against {_mean(self.before)} tokens/s), at least"
            f" {_times(self.limit)}"
        )


@dataclass(frozen=True, kw_only=True)
class ChangeInRun(Fact):
    """A phase's change from the old engine, whose processes ran between the new one's."""

    phase: str
    change: Bounded
    after: tuple[float, ...]
    before: tuple[float, ...]
    limit: float

    def __str__(self) -> str:
        return (
            f"{self.phase} {_interval(self.change)} against the old engine over"
            f" {len(self.after)} pairs of processes ({_mean(self.after)} tokens/s, was"
            f" {_mean(self.before)}), limit {percent(self.limit)}"
        )


@dataclass(frozen=True, kw_only=True)
class ChangeSinceSession(Fact):
    """A phase's change from the speeds of other sessions; ``scatter`` is of this machine's."""

    phase: str
    change: Bounded
    against: Against
    versus: Versus
    after: tuple[float, ...]
    before: tuple[float, ...]
    scatter: float | None
    limit: float

    def __str__(self) -> str:
        sessions = ""
        if self.scatter is not None:
            sessions = f", sessions of this machine scatter by {100 * self.scatter:.1f} %"
        return (
            f"{self.phase} {_interval(self.change)} against {noun(self.against, self.versus)}"
            f" ({_mean(self.after)} tokens/s in {len(self.after)} processes, was"
            f" {_mean(self.before)} in {len(self.before)}{sessions}), limit {percent(self.limit)}"
        )


@dataclass(frozen=True, kw_only=True)
class Floor(Fact):
    """A phase's tokens per second, and the fewest that it may have."""

    phase: str
    rate: Bounded
    processes: int
    limit: float

    def __str__(self) -> str:
        rate = self.rate
        return (
            f"{self.phase} {rate.value:,.4g} tokens/s [{rate.low:,.4g}, {rate.high:,.4g}] over"
            f" {self.processes} processes, at least {self.limit:,.4g}"
        )


@dataclass(frozen=True, kw_only=True)
class Undecided(Fact):
    """The processes do not decide."""

    reason: stats.Reason

    def __str__(self) -> str:
        return f"{self.reason.value}; raise speed_processes or speed_seconds"


@dataclass(frozen=True, kw_only=True)
class Busy(Fact):
    """Other processes used so many cores."""

    cores: float

    def __str__(self) -> str:
        return (
            f"not decided, since other processes used {self.cores:.1f} cores meanwhile; measure on"
            " a quiet machine"
        )


def _interval(change: Bounded) -> str:
    return f"{percent(change.value)} [{percent(change.low)}, {percent(change.high)}]"


def _mean(rates: tuple[float, ...]) -> str:
    return f"{math.exp(-stats.slowness(rates).mean):,.4g}"


def _times(ratio: float) -> str:
    return f"{ratio:.3g}×"
