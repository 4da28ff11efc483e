"""Speed: each phase against the reference, an absolute floor, and the baseline of this hardware.

A ratio to the reference, or to the old engine, was measured in one run, process by process, and
stands on its own.
Numbers in tokens per second are compared only with those of the same hardware, and never called
a regression where other processes kept the machine busy.
"""

from __future__ import annotations

import math

from pytest_quantgate import stats
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.bounds import KIND_OF_OUTCOME, noun, only, other_source
from pytest_quantgate.gate.judges.hardware import of_other_settings, of_this_hardware, with_build
from pytest_quantgate.gate.observation import Observation, percent
from pytest_quantgate.results.baseline import SPEED_SETTINGS, Baseline, SpeedBaseline
from pytest_quantgate.results.measurements.speed import PHASES, SpeedMeasurement
from pytest_quantgate.results.verdicts import Judgement, VerdictKind


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
    found = (
        (VerdictKind.NO_BASELINE, "no speed is stored that says of which hardware the floor is")
        if stored is None
        else _comparable(seen, measured, stored)
    )
    if isinstance(found, tuple):
        return [only("speed", "nothing", found[0], f"{phase}: {found[1]}")]
    return [_unless_busy(measured, _floor(measured, phase, floor))]


def judge_against_reference(
    measured: SpeedMeasurement, phase: str, limit: float | None
) -> list[Judgement]:
    """Judge a phase's ratio to the reference: nothing for the reference itself."""
    if limit is not None and measured.against:
        reason = (
            f"{phase}: at least {_times(limit)} the reference is not judged where two engines are"
            " compared; run without --quant-against"
        )
        return [only("speed", "nothing", VerdictKind.MEASURED, reason)]
    if limit is None or not measured.reference:
        return []
    before, after = measured.reference_rates(phase), measured.rates(phase)
    estimate = stats.slowdown(before, after)
    decision = _decide(measured, estimate, -math.log(limit))
    ratio, low, high = _ratio(estimate.mean), *_bounds(decision)
    reason = (
        f"{phase} {_times(ratio)} the reference [{_times(low)}, {_times(high)}] over"
        f" {len(after)} pairs of processes ({_mean(after):,.4g} against {_mean(before):,.4g}"
        f" tokens/s), at least {_times(limit)}"
    )
    return [_judgement("reference", decision, reason, ratio, low, high, limit)]


def _against_old_engine(measured: SpeedMeasurement, phase: str, limits: Limits) -> list[Judgement]:
    """Judge a phase's change from the old engine, whose processes ran between the new one's."""
    asked = getattr(limits, f"{phase}_vs_baseline")
    allowed = limits.speed_vs_same_hardware if asked is None else asked
    if allowed is None:
        return []
    before, after = measured.against_rates(phase), measured.rates(phase)
    estimate = stats.slowdown(before, after)
    decision = _decide(measured, estimate, -math.log1p(allowed))
    change, low, high = (_ratio(estimate.mean), *_bounds(decision))
    reason = (
        f"{phase} {percent(change - 1)} [{percent(low - 1)}, {percent(high - 1)}] against the"
        f" old engine over {len(after)} pairs of processes ({_mean(after):,.4g} tokens/s, was"
        f" {_mean(before):,.4g}), limit {percent(allowed)}"
    )
    return [_or_improved(decision, change, low, high, reason, allowed)]


def _or_improved(
    decision: stats.Decision,
    change: float,
    low: float,
    high: float,
    reason: str,
    allowed: float,
) -> Judgement:
    """Judge a change; as much to the good as the limit allows to the bad is IMPROVED."""
    judgement = _judgement("baseline", decision, reason, change - 1, low - 1, high - 1, allowed)
    if judgement.verdict is VerdictKind.PASS and 0 < decision.limit < -decision.upper_bound:
        return Judgement(**{**vars(judgement), "verdict": VerdictKind.IMPROVED})
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
    if isinstance(stored, tuple):
        kind, reason = stored
        if floor is None and asked is None:
            # The default limits are there only where they can be kept.
            kind = VerdictKind.MEASURED
        return [only("speed", "nothing", kind, f"{phase}: {reason}")]
    judgements = []
    if floor is not None:
        judgements.append(_floor(measured, phase, floor))
    if allowed is not None:
        before = getattr(stored, f"{phase}_rates")
        judgements.append(_change(seen, measured, phase, "baseline", allowed, before))
    # Where no change was accepted yet, the limit against the baseline says it, unless it is wider.
    if drift is not None and (stored.anchor is not None or allowed is None or allowed < drift):
        first = getattr(stored.first, f"{phase}_rates")
        judgements.append(_change(seen, measured, phase, "anchor", drift, first))
    return [
        with_build(_unless_busy(measured, item), measured.fingerprint, stored)
        for item in judgements
    ]


def _comparable(
    seen: Observation, measured: SpeedMeasurement, baseline: Baseline
) -> SpeedBaseline | tuple[VerdictKind, str]:
    """Return the baseline's speed on this hardware, or why nothing can be held against it."""
    other = other_source(seen, baseline)
    if other is not None:
        return VerdictKind.NOT_COMPARABLE, other
    stored = of_this_hardware("speed", baseline.speed, measured.fingerprint)
    if isinstance(stored, tuple):
        return stored
    return of_other_settings("speed", measured, stored, SPEED_SETTINGS) or stored


def _floor(measured: SpeedMeasurement, phase: str, floor: float) -> Judgement:
    after = measured.rates(phase)
    estimate = stats.slowness(after)
    decision = _decide(measured, estimate, -math.log(floor))
    rate, low, high = _ratio(estimate.mean), *_bounds(decision)
    reason = (
        f"{phase} {rate:,.4g} tokens/s [{low:,.4g}, {high:,.4g}] over {len(after)} processes,"
        f" at least {floor:,.4g}"
    )
    return _judgement("limit", decision, reason, rate, low, high, floor)


def _change(
    seen: Observation,
    measured: SpeedMeasurement,
    phase: str,
    against: str,
    allowed: float,
    before: tuple[float, ...],
) -> Judgement:
    """Judge a change from the speeds of other sessions: the baseline's, or its anchor's."""
    after = measured.rates(phase)
    scatter = measured.between_sessions.get(phase)
    estimate = stats.slowdown_unpaired(before, after, between=scatter)
    decision = _decide(measured, estimate, -math.log1p(allowed))
    change, low, high = (_ratio(estimate.mean), *_bounds(decision))
    sessions = (
        ""
        if scatter is None
        else f", sessions of this machine scatter by {100 * math.sqrt(scatter.variance):.1f} %"
    )
    reason = (
        f"{phase} {percent(change - 1)} [{percent(low - 1)}, {percent(high - 1)}] against"
        f" {noun(against, seen)} ({_mean(after):,.4g} tokens/s in {len(after)} processes, was"
        f" {_mean(before):,.4g} in {len(before)}{sessions}), limit {percent(allowed)}"
    )
    if against == "anchor":
        return _judgement(against, decision, reason, change - 1, low - 1, high - 1, allowed)
    return _or_improved(decision, change, low, high, reason, allowed)


def _unless_busy(measured: SpeedMeasurement, judgement: Judgement) -> Judgement:
    """Take a regression back where other processes had the processors."""
    cores = measured.disturbing_cores
    if judgement.verdict is not VerdictKind.REGRESSED or cores is None:
        return judgement
    reason = (
        f"{judgement.reason}: not decided, since other processes used {cores:.1f} cores"
        " meanwhile; measure on a quiet machine"
    )
    return Judgement(**{**vars(judgement), "verdict": VerdictKind.INCONCLUSIVE, "reason": reason})


def _decide(
    measured: SpeedMeasurement, estimate: stats.MeanEstimate, limit: float
) -> stats.Decision:
    return stats.decide_slowdown(estimate, limit, measured.looks, len(measured.cell))


def _judgement(
    against: str,
    decision: stats.Decision,
    reason: str,
    estimate: float,
    low: float,
    high: float,
    limit: float,
) -> Judgement:
    kind = KIND_OF_OUTCOME[decision.outcome]
    if kind is VerdictKind.INCONCLUSIVE:
        reason += f": {decision.reason.value}; raise speed_processes or speed_seconds"
    return Judgement(
        metric="speed",
        against=against,
        verdict=kind,
        reason=reason,
        estimate=estimate,
        low=low,
        high=high,
        limit=limit,
    )


def _ratio(slowdown_nats: float) -> float:
    """Turn a slowdown ln(before/after) into after/before."""
    return math.exp(-slowdown_nats)


def _bounds(decision: stats.Decision) -> tuple[float, float]:
    """Return after/before at the bound that decides for PASS, and at that for REGRESSED."""
    return _ratio(decision.upper_bound), _ratio(decision.lower_bound)


def _mean(rates: tuple[float, ...]) -> float:
    return math.exp(-stats.slowness(rates).mean)


def _times(ratio: float) -> str:
    return f"{ratio:.3g}×"
