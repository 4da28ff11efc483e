"""Intervals, one-sided bounds, and what a look decides by them."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from scipy.special import stdtrit

from pytest_quantgate.stats.estimates import PairedEstimate
from pytest_quantgate.stats.looks import MIN_CLUSTERS

if TYPE_CHECKING:
    from pytest_quantgate.stats.estimates import MeanEstimate

MAX_CHUNKS = 1_000_000
"""An estimate that needs more than this is at the limit for every purpose."""


class Outcome(Enum):
    """Where a confidence bound lies with respect to a limit."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    UNDECIDED = "undecided"
    NOT_FINITE = "not finite"


class Reason(Enum):
    """What a decision rests on."""

    BOUND = "the confidence bound"
    IDENTICAL = "bit-identical values"
    BETWEEN = "the limit lies between the confidence bounds"
    FEW_CLUSTERS = "too few clusters"
    FEW_DIFFER = "fewer than half of the chunks differ"
    NOT_FINITE = "a value is not finite"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """An outcome and the evidence for it.

    Attributes:
        outcome: see `Outcome`.
        reason: see `Reason`.
        lower_bound: one-sided at `alpha_regressed`, in the estimate's unit.
        upper_bound: one-sided at `alpha_pass`, in the estimate's unit.
        limit: what they were compared with.

    """

    outcome: Outcome
    reason: Reason
    lower_bound: float
    upper_bound: float
    limit: float


def t_quantile(degrees_of_freedom: float, alpha: float) -> float:
    """Return the t that is exceeded with probability `alpha`: infinite for 0."""
    if not 0 <= alpha < 1:
        msg = f"alpha {alpha!r}; give a probability below 1"
        raise ValueError(msg)
    if alpha == 0 or degrees_of_freedom <= 0:
        return math.inf
    return -float(stdtrit(degrees_of_freedom, alpha))


def _times(quantile: float, standard_error: float) -> float:
    return math.inf if math.inf in (quantile, standard_error) else quantile * standard_error


def interval(estimate: MeanEstimate, alpha: float = 0.05) -> tuple[float, float]:
    """Return the two-sided interval of confidence 1 − alpha, in the estimate's unit."""
    half = _times(t_quantile(estimate.degrees_of_freedom, alpha / 2), estimate.standard_error)
    return estimate.mean - half, estimate.mean + half


def ppl_change(nats: float) -> float:
    """Turn ln(PPL_b / PPL_a) in nats per token into a relative change of perplexity."""
    return math.expm1(nats) if nats < 709 else math.inf


def ppl_limit_nats(relative_change: float) -> float:
    """Turn a relative change of perplexity (+0.25 % is 0.0025) into nats per token."""
    return math.log1p(relative_change)


def ppl_ratio_interval(estimate: MeanEstimate, alpha: float = 0.05) -> tuple[float, float]:
    """Return the interval of PPL_b / PPL_a − 1 of confidence 1 − alpha."""
    low_nats, high_nats = interval(estimate, alpha)
    return ppl_change(low_nats), ppl_change(high_nats)


def guarded_t(alpha: float, clusters: float, skewness: float, skewness_error: float) -> float:
    """Return the t of a one-sided bound, widened where skewed clusters would break it.

    Student's t of a mean of few skewed values exceeds its nominal quantile many times too often
    on one side: 5 times at α = 0.001 for a skewness of 1, 18 times for 2 (G of 16 to 64). The
    first term of its Edgeworth expansion (Hall, 1992, The Bootstrap and Edgeworth Expansion, 2.3)
    moves the quantile by γ(2t² + 1)/(6√G). It is used where it widens the bound, with γ's estimate
    moved by 1.5 of its standard errors in the adverse direction, because few clusters seldom show
    their tail. So the result grows with γ, and is never below t with G* − 1 degrees of freedom.

    Args:
        alpha: one-sided.
        clusters: G*.
        skewness: γ, positive where the tail on the bound's own side is the long one.
        skewness_error: its standard error.

    """
    plain = t_quantile(clusters - 1, alpha)
    adverse = max(0.0, skewness + 1.5 * skewness_error)
    if math.isinf(plain) or adverse == 0:
        return plain
    return plain + adverse * (2 * plain**2 + 1) / (6 * math.sqrt(clusters))


def lower_bound(estimate: MeanEstimate, alpha: float) -> float:
    """Return what the mean exceeds with one-sided confidence 1 − alpha, guarded against skew."""
    quantile = guarded_t(
        alpha, estimate.effective_clusters, -estimate.skewness, estimate.skewness_error
    )
    return estimate.mean - _times(quantile, estimate.standard_error)


def upper_bound(estimate: MeanEstimate, alpha: float) -> float:
    """Return what the mean stays below with one-sided confidence 1 − alpha, guarded likewise."""
    quantile = guarded_t(
        alpha, estimate.effective_clusters, estimate.skewness, estimate.skewness_error
    )
    return estimate.mean + _times(quantile, estimate.standard_error)


def decide(
    estimate: MeanEstimate,
    limit: float,
    *,
    alpha_pass: float,
    alpha_regressed: float,
    identical: bool,
    last_look: bool,
    min_clusters: int = MIN_CLUSTERS,
) -> Decision:
    """Compare an estimate's one-sided confidence bounds with a limit.

    Args:
        estimate: of all the chunks up to this look; one that isn't paired counts as differing
            in every chunk.
        limit: the largest difference allowed, in the estimate's unit.
        alpha_pass: this look's share of the error of INSIDE (see `plan_looks`); 0 for none.
        alpha_regressed: this look's share of the error of OUTSIDE.
        identical: every per-token value is bit-equal.
        last_look: the budget is used up. Before that neither bit-equal values nor a difference
            in fewer than half of the chunks may be INSIDE: the rest of the text may differ.
        min_clusters: below this only bit-equal values are decided.

    Returns:
        INSIDE only if the upper bound is at or below the limit, OUTSIDE only if the lower bound
        is above it, NOT_FINITE for a mean or error that is no number.

    Raises:
        ValueError: a limit that is not finite, or `identical` with chunks that differ.

    """
    if not math.isfinite(limit):
        msg = f"limit {limit!r}; give a finite number"
        raise ValueError(msg)
    lower = lower_bound(estimate, alpha_regressed)
    upper = upper_bound(estimate, alpha_pass)

    def decision(outcome: Outcome, reason: Reason) -> Decision:
        return Decision(
            outcome=outcome, reason=reason, lower_bound=lower, upper_bound=upper, limit=limit
        )

    if not math.isfinite(estimate.mean) or math.isnan(estimate.standard_error):
        return decision(Outcome.NOT_FINITE, Reason.NOT_FINITE)
    differing = (
        estimate.chunks_differing if isinstance(estimate, PairedEstimate) else estimate.chunks
    )
    if identical:
        if differing:
            msg = f"identical values, yet {differing} chunks differ"
            raise ValueError(msg)
        if not last_look:
            return decision(Outcome.UNDECIDED, Reason.FEW_DIFFER)
        return decision(Outcome.INSIDE if limit >= 0 else Outcome.OUTSIDE, Reason.IDENTICAL)
    if estimate.clusters < max(min_clusters, 2):
        return decision(Outcome.UNDECIDED, Reason.FEW_CLUSTERS)
    if not math.isfinite(estimate.standard_error):
        return decision(Outcome.NOT_FINITE, Reason.NOT_FINITE)
    if lower > limit:
        return decision(Outcome.OUTSIDE, Reason.BOUND)
    if upper <= limit:
        if not last_look and 2 * differing < estimate.chunks:
            return decision(Outcome.UNDECIDED, Reason.FEW_DIFFER)
        return decision(Outcome.INSIDE, Reason.BOUND)
    return decision(Outcome.UNDECIDED, Reason.BETWEEN)


def chunks_to_decide(
    estimate: MeanEstimate,
    limit: float,
    *,
    alpha_pass: float,
    alpha_regressed: float,
    min_clusters: int = MIN_CLUSTERS,
    power: float = 0.8,
) -> int | None:
    """Say how many more chunks would decide with probability `power`, if the mean stays.

    The smallest n' ≤ `MAX_CHUNKS` where (t_α + t_{1−power}) · SE · √(n/n') ≤ |mean − limit|, with
    clusters growing like chunks. None where there is none: the mean is at the limit, or something
    is not finite.
    """
    gap = abs(estimate.mean - limit)
    if not (math.isfinite(gap) and math.isfinite(estimate.standard_error)) or gap == 0:
        return None
    passing = estimate.mean <= limit
    alpha = alpha_pass if passing else alpha_regressed

    def decides(chunks: int) -> bool:
        growth = chunks / estimate.chunks
        effective = estimate.effective_clusters * growth
        skewness = estimate.skewness if passing else -estimate.skewness
        quantile = guarded_t(alpha, effective, skewness, estimate.skewness_error / growth**0.5)
        quantile += t_quantile(effective - 1, 1 - power)
        enough = estimate.clusters * growth >= min_clusters
        return enough and quantile * estimate.standard_error <= gap * growth**0.5

    if not decides(MAX_CHUNKS):
        return None
    chunks = range(estimate.chunks + 1, MAX_CHUNKS)
    return bisect_left(chunks, True, key=decides) + 1
