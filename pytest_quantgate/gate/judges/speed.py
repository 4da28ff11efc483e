"""Speed: each phase against the reference, an absolute floor, and the baseline of this hardware.

A ratio to the reference, or to the old engine, was measured in one run, process by process, and
stands on its own.
Numbers in tokens per second are compared only with those of the same hardware, and never called
a regression where other processes kept the machine busy.
"""

from __future__ import annotations

import math
from dataclasses import replace

from pytest_quantgate import stats
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.bounds import KIND_OF_OUTCOME, only, other_source
from pytest_quantgate.gate.judges.hardware import find_stored, verdict_of_missing, with_build
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gate.reasons.comparability import Plain
from pytest_quantgate.gate.reasons.speed import (
    Bounded,
    Busy,
    ChangeInRun,
    ChangeSinceSession,
    Floor,
    NotBesideReference,
    OfPhase,
    RatioToReference,
    Undecided,
)
from pytest_quantgate.results.baseline import SPEED_SETTINGS, Baseline, SpeedBaseline
from pytest_quantgate.results.measurements.speed import PHASES, SpeedMeasurement
from pytest_quantgate.results.verdicts import Against, Fact, Judgement, Reason, VerdictKind


def judge_speed(
    seen: Observation, limits: Limits, baseline: Baseline | None, _look: stats.Look
) -> list[Judgement]:
    """Judge prefill and decoding, each against every limit of its own that is set."""
    measured = seen.find(SpeedMeasurement)
    if measured is None:
        return []
    return [
        judgement
        for phase in PHASES
        for judgement in _judge_phase(seen, measured, phase, limits, baseline)
    ]


def _judge_phase(
    seen: Observation,
    measured: SpeedMeasurement,
    phase: str,
    limits: Limits,
    baseline: Baseline | None,
) -> list[Judgement]:
    judgements = judge_against_reference(measured, phase, getattr(limits, f"{phase}_vs_reference"))
    if measured.against:
        return [*judgements, *_against_old_engine(measured, phase, limits)]
    return [*judgements, *_against_hardware(seen, measured, phase, limits, baseline)]


def phases_decided(
    seen: Observation, limits: Limits, baseline: Baseline | None, stored: Baseline | None
) -> dict[str, bool]:
    """Return of each phase that bounds are held against whether they decide all of its limits.

    Arguments as of `judge_speed`; ``stored`` has the hardware of the floors, where an old engine's
    measurement stands for the baseline.
    """
    measured = seen.find(SpeedMeasurement)
    if measured is None:
        return {}
    decided = {}
    for phase in PHASES:
        judgements = _judge_phase(seen, measured, phase, limits, baseline)
        if measured.against:
            judgements += _judge_floor(seen, measured, phase, limits, stored)
        bounded = [item for item in judgements if item.estimate is not None]
        if bounded:
            decided[phase] = all(item.verdict is not VerdictKind.INCONCLUSIVE for item in bounded)
    return decided


def judge_floors(seen: Observation, limits: Limits, stored: Baseline | None) -> list[Judgement]:
    """Judge the floors of a run against an old engine, whose measurement stands for the baseline.

    A floor is of the hardware whose speed is stored; the old engine's is always this one.
    """
    measured = seen.find(SpeedMeasurement)
    if measured is None:
        return []
    return [
        judgement
        for phase in PHASES
        for judgement in _judge_floor(seen, measured, phase, limits, stored)
    ]


def _judge_floor(
    seen: Observation,
    measured: SpeedMeasurement,
    phase: str,
    limits: Limits,
    stored: Baseline | None,
) -> list[Judgement]:
    floor = getattr(limits, f"{phase}_tokens_per_s_min")
    if floor is None:
        return []
    speed = Plain.NO_HARDWARE_OF_FLOOR if stored is None else _comparable(seen, measured, stored)
    if isinstance(speed, Fact):
        return [_not_judged(phase, verdict_of_missing(speed), speed)]
    return [_unless_busy(measured, _floor(measured, phase, floor))]


def judge_against_reference(
    measured: SpeedMeasurement, phase: str, limit: float | None
) -> list[Judgement]:
    """Judge a phase's ratio to the reference: nothing for the reference itself."""
    if limit is not None and measured.against:
        return [_not_judged(phase, VerdictKind.MEASURED, NotBesideReference(limit=limit))]
    if limit is None or not measured.reference:
        return []
    before, after = measured.reference_rates(phase), measured.rates(phase)
    estimate = stats.slowdown(before, after)
    decision = _decide(measured, estimate, -math.log(limit))
    ratio = _bounded(estimate, decision)
    fact = RatioToReference(phase=phase, ratio=ratio, after=after, before=before, limit=limit)
    return [_judgement(Against.REFERENCE, decision, fact, ratio, limit)]


def _not_judged(phase: str, kind: VerdictKind, why: Fact) -> Judgement:
    return only("speed", Against.NOTHING, kind, OfPhase(phase=phase, fact=why))


def _against_old_engine(measured: SpeedMeasurement, phase: str, limits: Limits) -> list[Judgement]:
    """Judge a phase's change from the old engine, whose processes ran between the new one's."""
    asked = getattr(limits, f"{phase}_vs_baseline")
    allowed = limits.speed_vs_same_hardware if asked is None else asked
    if allowed is None:
        return []
    before, after = measured.against_rates(phase), measured.rates(phase)
    estimate = stats.slowdown(before, after)
    decision = _decide(measured, estimate, -math.log1p(allowed))
    change = _bounded(estimate, decision, minus=1)
    fact = ChangeInRun(phase=phase, change=change, after=after, before=before, limit=allowed)
    return [_or_improved(_judgement(Against.BASELINE, decision, fact, change, allowed), decision)]


def _or_improved(judgement: Judgement, decision: stats.Decision) -> Judgement:
    """Call as much to the good as the limit allows to the bad IMPROVED."""
    if judgement.verdict is VerdictKind.PASS and 0 < decision.limit < -decision.upper_bound:
        return replace(judgement, verdict=VerdictKind.IMPROVED)
    return judgement


def _against_hardware(
    seen: Observation,
    measured: SpeedMeasurement,
    phase: str,
    limits: Limits,
    baseline: Baseline | None,
) -> list[Judgement]:
    """Judge the floor, the change and the drift, which need the figures of this hardware."""
    floor = getattr(limits, f"{phase}_tokens_per_s_min")
    asked = getattr(limits, f"{phase}_vs_baseline")
    allowed = limits.speed_vs_same_hardware if asked is None else asked
    drift = limits.speed_vs_anchor
    if baseline is None or (floor is None and allowed is None and drift is None):
        return []
    stored = _comparable(seen, measured, baseline)
    if isinstance(stored, Fact):
        # The default limits are there only where they can be kept.
        is_asked = floor is not None or asked is not None
        kind = verdict_of_missing(stored) if is_asked else VerdictKind.MEASURED
        return [_not_judged(phase, kind, stored)]
    judgements = []
    if floor is not None:
        judgements.append(_floor(measured, phase, floor))
    if allowed is not None:
        before = getattr(stored, f"{phase}_rates")
        judgements.append(_change(seen, measured, phase, Against.BASELINE, allowed, before))
    # Where no change was accepted yet, the limit against the baseline says it, unless it is wider.
    if drift is not None and (stored.anchor is not None or allowed is None or allowed < drift):
        first = getattr(stored.first, f"{phase}_rates")
        judgements.append(_change(seen, measured, phase, Against.ANCHOR, drift, first))
    return [
        with_build(_unless_busy(measured, item), measured.fingerprint, stored)
        for item in judgements
    ]


def _comparable(
    seen: Observation, measured: SpeedMeasurement, baseline: Baseline
) -> SpeedBaseline | Fact:
    """Return the baseline's speed on this hardware, or why nothing can be held against it."""
    other = other_source(seen, baseline)
    if other is not None:
        return other
    return find_stored("speed", baseline.speed, measured, SPEED_SETTINGS)


def _floor(measured: SpeedMeasurement, phase: str, floor: float) -> Judgement:
    after = measured.rates(phase)
    estimate = stats.slowness(after)
    decision = _decide(measured, estimate, -math.log(floor))
    rate = _bounded(estimate, decision)
    fact = Floor(phase=phase, rate=rate, processes=len(after), limit=floor)
    return _judgement(Against.LIMIT, decision, fact, rate, floor)


def _change(
    seen: Observation,
    measured: SpeedMeasurement,
    phase: str,
    against: Against,
    allowed: float,
    before: tuple[float, ...],
) -> Judgement:
    """Judge a change from the speeds of other sessions: the baseline's, or its anchor's."""
    after = measured.rates(phase)
    scatter = measured.between_sessions.get(phase)
    estimate = stats.slowdown_unpaired(before, after, between=scatter)
    decision = _decide(measured, estimate, -math.log1p(allowed))
    change = _bounded(estimate, decision, minus=1)
    fact = ChangeSinceSession(
        phase=phase,
        change=change,
        against=against,
        versus=seen.versus,
        after=after,
        before=before,
        scatter=None if scatter is None else math.sqrt(scatter.variance),
        limit=allowed,
    )
    judgement = _judgement(against, decision, fact, change, allowed)
    return judgement if against is Against.ANCHOR else _or_improved(judgement, decision)


def _unless_busy(measured: SpeedMeasurement, judgement: Judgement) -> Judgement:
    """Take a regression back where other processes had the processors."""
    cores = measured.disturbing_cores
    if judgement.verdict is not VerdictKind.REGRESSED or cores is None:
        return judgement
    reason = judgement.reason.also(Busy(cores=cores))
    return replace(judgement, verdict=VerdictKind.INCONCLUSIVE, reason=reason)


def _decide(
    measured: SpeedMeasurement, estimate: stats.MeanEstimate, limit: float
) -> stats.Decision:
    return stats.decide_slowdown(estimate, limit, measured.looks, len(measured.cell))


def _judgement(
    against: Against, decision: stats.Decision, fact: Fact, bounded: Bounded, limit: float
) -> Judgement:
    kind = KIND_OF_OUTCOME[decision.outcome]
    is_undecided = kind is VerdictKind.INCONCLUSIVE
    return Judgement(
        metric="speed",
        against=against,
        verdict=kind,
        reason=Reason((fact,)).also(Undecided(reason=decision.reason) if is_undecided else None),
        estimate=bounded.value,
        low=bounded.low,
        high=bounded.high,
        limit=limit,
    )


def _bounded(
    estimate: stats.MeanEstimate, decision: stats.Decision, *, minus: float = 0
) -> Bounded:
    """Turn slowdowns ln(before/after) into after/before, as a change with ``minus`` 1.

    ``low`` is at the bound that decides for PASS, ``high`` at that for REGRESSED.
    """
    nats = (estimate.mean, decision.upper_bound, decision.lower_bound)
    value, low, high = (math.exp(-item) - minus for item in nats)
    return Bounded(value=value, low=low, high=high)
