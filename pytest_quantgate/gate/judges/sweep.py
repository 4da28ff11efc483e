"""A sweep of conditions: the smallest that is further away than sound kernels explain."""

from __future__ import annotations

import statistics as stdlib_statistics
from collections.abc import Sequence

from pytest_quantgate.config.limit import MAX_MEAN_KLD_NATS
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.engines.sweep import Kind
from pytest_quantgate.gate.judges.bounds import only
from pytest_quantgate.gate.judges.noise import MARGIN, below_noise
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gate.reasons.conditions import (
    FaultyCondition,
    NothingMeasured,
    SoundConditions,
)
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.measurements.sweep import SweepMeasurement, SweptPoint
from pytest_quantgate.results.verdicts import Against, Fact, Judgement, Reason, VerdictKind
from pytest_quantgate.stats import Look

METRIC = "sweep"

CACHE_MARGIN = 5.0
"""How many times what the errors of a cache's types explain a divergence may be.

The divergence grows with the square of the types' relative error; how fast is the median of all
types of the same sweep. Sound types are up to 2.6 times above that (olmoe-mini, Q4_K_M)."""

_LEAST_CACHE_ERROR = 0.02
"""Types of smaller errors say little of how the divergence grows: kernels' rounding is as large."""

MAX_NLL_INCREASE_NATS = 0.1
"""By how much a longer text before a token may make it less likely, beyond 3 standard errors.

In sound models it makes it likelier."""


def judge_sweep(
    seen: Observation, limits: Limits, _baseline: Baseline | None, _look: Look
) -> list[Judgement]:
    """Judge all conditions; of those that fail, the smallest is named."""
    measured, limit = seen.find(SweepMeasurement), limits.sweep_kld_max
    if measured is None or limit is None:
        return []
    compared = [point for point in measured.points if not point.problem]
    if not compared:
        first = measured.points[0].problem if measured.points else "there are none"
        nothing = NothingMeasured(what="no condition", problem=first)
        return [only(METRIC, Against.CONDITIONS, VerdictKind.UNSUPPORTED, nothing)]
    explained = {point.name: explain(point, measured.points, limit) for point in compared}
    failing = [point for point in compared if fails(point, explained[point.name])]
    if failing:
        smallest = min(failing, key=lambda point: len(point.changes))
        limit = explained[smallest.name]
        faulty = _faulty(smallest, failing, limit, measured)
        return [_judgement(smallest, limit, VerdictKind.REGRESSED, faulty)]
    worst = max(compared, key=lambda point: point.mean_kld_nats / explained[point.name])
    sound = SoundConditions(
        compared=len(compared),
        furthest=worst.name,
        kld_nats=worst.mean_kld_nats,
        refused=len(measured.points) - len(compared),
    )
    passed = _judgement(worst, explained[worst.name], VerdictKind.PASS, sound)
    return [passed, *limits_below_rounding(compared, limits)]


def limits_below_rounding(points: Sequence[SweptPoint], limits: Limits) -> list[Judgement]:
    """Return a judgement for each limit below ``MARGIN`` times what sound kernels differ by."""
    floor = MARGIN * furthest_by_rounding(points)
    return [
        below_noise(METRIC, name, limit, floor)
        for name in ("sweep_kld_max", "batch_kld_max")
        if (limit := getattr(limits, name)) is not None and not limit >= floor
    ]


def furthest_by_rounding(points: Sequence[SweptPoint]) -> float:
    """Return the largest divergence of conditions that only round in other ways, in nats."""
    kinds = {Kind.ROUNDING.name}
    return max((p.mean_kld_nats for p in points if p.kind in kinds and not p.problem), default=0.0)


def _judgement(point: SweptPoint, limit: float, kind: VerdictKind, fact: Fact) -> Judgement:
    return Judgement(
        metric=METRIC,
        against=Against.CONDITIONS,
        verdict=kind,
        reason=Reason((fact,)),
        estimate=point.mean_kld_nats,
        limit=limit,
    )


def explain(point: SweptPoint, points: Sequence[SweptPoint], limit: float) -> float:
    """Return how large a divergence sound kernels explain under a condition, in nats."""
    if not point.cache_error:
        return limit
    growth = [
        other.mean_kld_nats / other.cache_error**2
        for other in points
        if other.cache_error >= _LEAST_CACHE_ERROR and other.is_finite and not other.problem
    ]
    slope = stdlib_statistics.median_low(growth) if growth else 0.0
    return min(limit + CACHE_MARGIN * slope * point.cache_error**2, MAX_MEAN_KLD_NATS)


def fails(point: SweptPoint, explained: float) -> bool:
    """Return whether a condition is further away than sound kernels explain."""
    blocks = point.block_klds_nats
    sure = MAX_NLL_INCREASE_NATS + 3 * point.nll_error_nats
    is_sound = (
        point.mean_kld_nats <= explained
        and point.nll_increase_nats <= sure
        and first_token(point, explained) is None
    )
    return not (is_sound and point.is_finite and len(blocks) > 0)


def first_token(point: SweptPoint, explained: float) -> int | None:
    """Return the token from which on every block is too far; None where the last one is not.

    One block is fewer tokens than the limit is for: only what stays is a fault, and by itself a
    block must be three times above it.
    """
    first = None
    pairs = zip(point.block_starts, point.block_klds_nats, strict=True)
    for start, kld in reversed(list(pairs)):
        if kld <= 3 * explained:
            break
        first = start
    return first


def _faulty(
    point: SweptPoint, failing: Sequence[SweptPoint], explained: float, measured: SweepMeasurement
) -> FaultyCondition:
    """Return what is known of the smallest failing condition."""
    sure = MAX_NLL_INCREASE_NATS + 3 * point.nll_error_nats
    others = [other for other in failing if other is not point]
    apart = tuple(other.name for other in others if not set(point.changes) & set(other.changes))
    return FaultyCondition(
        name=point.name,
        kld_nats=point.mean_kld_nats,
        reference=measured.reference,
        explained_nats=explained,
        nll_increase_nats=point.nll_increase_nats if point.nll_increase_nats > sure else None,
        n_tokens=measured.n_tokens,
        first_token=first_token(point, explained),
        others=len(others),
        apart=apart,
    )
