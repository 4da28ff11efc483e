"""Speed: interleaved pairs of fresh processes, and when enough of them have run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.stats.decisions import Decision, _times, decide, t_quantile
from pytest_quantgate.stats.estimates import MeanEstimate, paired_log_ratio
from pytest_quantgate.stats.looks import ALPHA_PASS, ALPHA_REGRESSED, spending

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

MIN_PROCESSES = 5
"""Fresh processes a side below which nothing is said of a speed."""

_GROWTH = 1.4  # a look after 5, 7, 10, 14, 20, … processes


def process_looks(most: int) -> tuple[int, ...]:
    """Return the numbers of processes a side after which measuring may end, the budget last.

    Raises:
        ValueError: a budget below `MIN_PROCESSES`.

    """
    if most < MIN_PROCESSES:
        msg = f"{most} processes a side; give at least {MIN_PROCESSES}"
        raise ValueError(msg)
    looks = [MIN_PROCESSES]
    while looks[-1] < most:
        looks.append(min(most, math.ceil(_GROWTH * looks[-1] - 1e-9)))
    return tuple(looks)


def interleaved(pair: int) -> tuple[int, int]:
    """Return which side of a pair runs first, 0 or 1, in the order A B, B A, A B.

    What drifts steadily (a clock that sinks as the machine warms up) then falls on both alike.
    """
    return (0, 1) if pair % 2 == 0 else (1, 0)


def slowdown(before_rates: npt.ArrayLike, after_rates: npt.ArrayLike) -> MeanEstimate:
    """Estimate ln(before/after) of interleaved pairs: positive where the second side is slower.

    Arguments, errors and formula as in `paired_log_ratio`, with the sign turned so that larger
    is worse.
    """
    return paired_log_ratio(after_rates, before_rates)


def slowness(rates: npt.ArrayLike) -> MeanEstimate:
    """Estimate −ln(rate) from one rate a process, with the process as the cluster."""
    values = np.asarray(rates, dtype=np.float64)
    return slowdown(np.ones_like(values), values)


MIN_SESSION_FREEDOM = 4
"""Degrees of freedom below which the scatter between sessions counts as not known."""


@dataclass(frozen=True, kw_only=True)
class SessionMean:
    """A session's mean of ln(rate) and the square of its standard error."""

    mean: float
    variance: float


@dataclass(frozen=True, kw_only=True)
class SessionScatter:
    """How far a session's mean of ln(rate) lies from another's of the same file and engine.

    Attributes:
        variance: of a session, beside what its own processes explain.
        degrees_of_freedom: of that variance.

    """

    variance: float
    degrees_of_freedom: int


def session_scatter(groups: Iterable[Sequence[SessionMean]]) -> SessionScatter | None:
    """Estimate the scatter between sessions by moments; None for too few of them.

    The variance of the means within the groups, less the mean of their own variances, and not
    below 0: Cochran's (1954) estimate of a variance component.

    Args:
        groups: the sessions of each file and engine, between which the speed itself may differ.

    """
    several = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    if freedom < MIN_SESSION_FREEDOM:
        return None
    squares = sum(
        float(np.sum(np.square(means - means.mean())))
        for group in several
        for means in [np.array([session.mean for session in group])]
    )
    explained = float(np.mean([session.variance for group in several for session in group]))
    between = max(0.0, squares / freedom - explained)
    return SessionScatter(variance=between, degrees_of_freedom=freedom)


def slowdown_unpaired(
    before_rates: npt.ArrayLike,
    after_rates: npt.ArrayLike,
    *,
    between: SessionScatter | None = None,
) -> MeanEstimate:
    """Estimate ln(before/after) of processes of two sessions, which nothing pairs.

    The error is Welch's: √(s_a²/n_a + s_b²/n_b), and twice the variance between sessions where that
    is known, with the degrees of freedom of Satterthwaite (1946) as `effective_clusters` − 1. Where
    it is not known, what moved between the sessions, and not within one, is not in the error:
    a limit on this difference must leave room for that.

    Returns:
        The estimate, `clusters` being the processes of the side that has fewer; NaN for rates
        that are zero, negative or not finite.

    Raises:
        ValueError: a side without processes.

    """
    sides = [slowness(before_rates), slowness(after_rates)]
    components = [(side.standard_error**2, side.clusters - 1) for side in sides]
    if between is not None and between.variance > 0:
        components.append((2 * between.variance, between.degrees_of_freedom))
    variance = sum(component for component, _ in components)
    freedom = math.inf
    if variance > 0 and math.isfinite(variance):
        freedom = variance**2 / sum(component**2 / own for component, own in components)
    clusters = min(side.clusters for side in sides)
    freedom = min(freedom, float(sum(own for _, own in components)))
    return MeanEstimate(
        mean=sides[1].mean - sides[0].mean,
        standard_error=math.sqrt(variance) if variance >= 0 else math.nan,
        skewness=0.0,
        skewness_error=0.0,
        clusters=clusters,
        effective_clusters=freedom + 1,
        tokens=sum(side.tokens for side in sides),
        chunks=sum(side.chunks for side in sides),
    )


def decide_slowdown(
    estimate: MeanEstimate, limit: float, looks: Sequence[int], n_processes: int
) -> Decision:
    """Decide at a look whether a slowdown is beyond a limit, with that look's share of the errors.

    Args:
        estimate: of the slowdown, paired or not, or of one side's slowness.
        limit: ln(before/after), or −ln(rate) of one side.
        looks: the numbers of processes declared beforehand, all of them.
        n_processes: how many a side there are now, one of the looks.

    """
    place = list(looks).index(n_processes)
    return decide(
        estimate,
        limit,
        alpha_pass=spending(looks, ALPHA_PASS)[place],
        alpha_regressed=spending(looks, ALPHA_REGRESSED)[place],
        identical=False,
        last_look=True,
        min_clusters=MIN_PROCESSES,
    )


def relative_width(estimate: MeanEstimate, alpha: float) -> float:
    """Return the width of the interval of confidence 1 − 2·alpha of a ratio: 0.1 is 10 %.

    It is the upper bound over the lower one, less 1; infinite or NaN where there is no interval.
    """
    half = _times(t_quantile(estimate.degrees_of_freedom, alpha), estimate.standard_error)
    try:
        return math.expm1(2 * half)
    except OverflowError:
        return math.inf


def is_narrow(estimate: MeanEstimate, margin: float, alpha: float) -> bool:
    """Tell whether the interval of confidence 1 − 2·alpha is narrower than a margin.

    A difference of twice the margin is then decided either way. The margin is relative: 0.1
    is 10 %.
    """
    return math.isfinite(estimate.mean) and relative_width(estimate, alpha) <= margin
