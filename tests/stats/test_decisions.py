"""Decisions: bounds, looks, levels and power."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pytest_quantgate.stats import (
    Decision,
    MeanEstimate,
    Outcome,
    PairedEstimate,
    Reason,
    chunks_to_decide,
    compare_paired,
    decide,
    lower_bound,
    plan_looks,
    ppl_limit_nats,
    upper_bound,
)

LIMIT_NATS = ppl_limit_nats(0.0025)


def paired(**changes: object) -> PairedEstimate:
    """Make an estimate of +0.1 % ± 0.02 % over 16 documents, but for the changes."""
    estimate = PairedEstimate(
        mean=0.001,
        standard_error=0.0002,
        skewness=0.0,
        skewness_error=0.0,
        clusters=16,
        effective_clusters=16.0,
        tokens=4096,
        chunks=16,
        chunks_differing=16,
    )
    return replace(estimate, **changes)  # type: ignore[arg-type]


def decided(
    estimate: MeanEstimate,
    limit: float = LIMIT_NATS,
    *,
    identical: bool = False,
    last: bool = False,
) -> Decision:
    return decide(
        estimate,
        limit,
        alpha_pass=0.05,
        alpha_regressed=0.001,
        identical=identical,
        last_look=last,
    )


def test_symmetric_bounds_are_students() -> None:
    estimate = paired()
    assert upper_bound(estimate, 0.05) == pytest.approx(stats.t.ppf(0.95, 15, 0.001, 0.0002))
    assert lower_bound(estimate, 0.001) == pytest.approx(stats.t.ppf(0.001, 15, 0.001, 0.0002))


@given(st.floats(-6, 6), st.floats(1e-5, 0.2), st.integers(3, 200))
def test_the_guard_only_widens(skewness: float, alpha: float, clusters: int) -> None:
    estimate = paired(
        skewness=skewness, skewness_error=(6 / clusters) ** 0.5, effective_clusters=clusters
    )
    half = 0.0002 * stats.t.isf(alpha, clusters - 1) * (1 - 1e-9)
    assert upper_bound(estimate, alpha) >= 0.001 + half
    assert lower_bound(estimate, alpha) <= 0.001 - half


@given(
    st.floats(-6, 6),
    st.floats(0, 6),
    st.floats(1e-6, 0.2),
    st.floats(3, 500),
    st.floats(0, 1.5),
)
def test_more_skewness_never_narrows_a_bound(
    skewness: float, more: float, alpha: float, clusters: float, error: float
) -> None:
    """Hall's cube root did: at α = 0.001 and G = 16 its t was 14.8 at −0.5 and 8.7 at −2.5."""
    less, skewed = (
        paired(skewness=value, skewness_error=error, effective_clusters=clusters)
        for value in (skewness, skewness + more)
    )
    assert upper_bound(skewed, alpha) >= upper_bound(less, alpha)
    assert lower_bound(skewed, alpha) >= lower_bound(less, alpha)


@given(st.floats(-6, 6), st.floats(1e-6, 0.2), st.floats(1.01, 3), st.floats(3, 500))
def test_less_error_never_narrows_a_bound(
    skewness: float, alpha: float, factor: float, clusters: float
) -> None:
    estimate = paired(skewness=skewness, skewness_error=0.4, effective_clusters=clusters)
    assert upper_bound(estimate, alpha / factor) >= upper_bound(estimate, alpha)
    assert lower_bound(estimate, alpha / factor) <= lower_bound(estimate, alpha)


def test_the_guard_is_the_first_term_of_the_edgeworth_expansion() -> None:
    """Hall (1992), 2.3: the quantile of a studentized mean moves by −γ(2t² + 1)/(6√G)."""
    estimate = paired(mean=0.0, standard_error=1.0, skewness=-1.2, effective_clusters=32)
    nominal = stats.t.isf(0.01, 31)
    wide = nominal + 1.2 * (2 * nominal**2 + 1) / (6 * math.sqrt(32))
    assert -lower_bound(estimate, 0.01) == pytest.approx(wide)
    assert upper_bound(estimate, 0.01) == pytest.approx(nominal)


@pytest.mark.parametrize(
    ("estimate", "outcome", "reason"),
    [
        (paired(), Outcome.INSIDE, Reason.BOUND),
        (paired(mean=0.01), Outcome.OUTSIDE, Reason.BOUND),
        (paired(mean=LIMIT_NATS), Outcome.UNDECIDED, Reason.BETWEEN),
        (paired(chunks_differing=7), Outcome.UNDECIDED, Reason.FEW_DIFFER),
        (paired(mean=0.01, chunks_differing=7), Outcome.OUTSIDE, Reason.BOUND),
        (paired(clusters=7), Outcome.UNDECIDED, Reason.FEW_CLUSTERS),
        (paired(mean=math.nan), Outcome.NOT_FINITE, Reason.NOT_FINITE),
        (paired(mean=math.inf), Outcome.NOT_FINITE, Reason.NOT_FINITE),
        (paired(mean=-math.inf), Outcome.NOT_FINITE, Reason.NOT_FINITE),
        (paired(standard_error=math.nan), Outcome.NOT_FINITE, Reason.NOT_FINITE),
        (paired(standard_error=math.inf), Outcome.NOT_FINITE, Reason.NOT_FINITE),
        (paired(mean=math.nan, clusters=1), Outcome.NOT_FINITE, Reason.NOT_FINITE),
    ],
)
def test_outcomes(estimate: PairedEstimate, outcome: Outcome, reason: Reason) -> None:
    decision = decided(estimate)
    assert (decision.outcome, decision.reason) == (outcome, reason)


def test_a_difference_in_few_chunks_may_pass_at_the_last_look() -> None:
    assert decided(paired(chunks_differing=1), last=True).outcome is Outcome.INSIDE


def test_identical_values_are_decided_when_the_budget_is_used_up() -> None:
    estimate = compare_paired([1, 2], [1, 2], [1, 1], [0, 0])
    assert decided(estimate, identical=True).outcome is Outcome.UNDECIDED
    decision = decided(estimate, identical=True, last=True)
    assert (decision.outcome, decision.reason) == (Outcome.INSIDE, Reason.IDENTICAL)
    assert decided(estimate, -0.01, identical=True, last=True).outcome is Outcome.OUTSIDE


def test_identical_nan_is_not_a_pass() -> None:
    estimate = compare_paired([1, math.nan], [1, math.nan], [1, 1])
    assert decided(estimate, identical=True, last=True).outcome is Outcome.NOT_FINITE


def test_a_claim_of_identity_is_checked() -> None:
    with pytest.raises(ValueError, match="16 chunks differ"):
        decided(paired(), identical=True, last=True)


@pytest.mark.parametrize("limit", [math.nan, math.inf])
def test_a_limit_must_be_finite(limit: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        decided(paired(), limit)


@given(st.floats(-1, 1), st.floats(1e-9, 1), st.floats(-1, 1))
def test_outcomes_agree_with_the_bounds(mean: float, error: float, limit: float) -> None:
    decision = decided(paired(mean=mean, standard_error=error), limit)
    assert decision.lower_bound < mean < decision.upper_bound
    if decision.outcome is Outcome.INSIDE:
        assert decision.upper_bound <= limit
    if decision.outcome is Outcome.OUTSIDE:
        assert decision.lower_bound > limit


@pytest.mark.parametrize("alpha", [1, math.nan, -0.1])
def test_alpha_is_a_probability(alpha: float) -> None:
    with pytest.raises(ValueError, match="below 1"):
        upper_bound(paired(), alpha)


def test_a_look_that_may_spend_nothing_decides_nothing() -> None:
    decision = decide(
        paired(mean=1.0),
        LIMIT_NATS,
        alpha_pass=0.0,
        alpha_regressed=0.0,
        identical=False,
        last_look=True,
    )
    assert decision.outcome is Outcome.UNDECIDED
    assert (decision.lower_bound, decision.upper_bound) == (-math.inf, math.inf)


def more(estimate: MeanEstimate, limit: float = LIMIT_NATS) -> int | None:
    return chunks_to_decide(estimate, limit, alpha_pass=0.05, alpha_regressed=0.001)


def test_chunks_to_decide_grow_with_the_square_of_the_error() -> None:
    wide = paired(mean=0.0, standard_error=0.01, clusters=64, effective_clusters=64, chunks=64)
    few, many = more(wide), more(replace(wide, standard_error=0.04))
    assert few is not None
    assert many is not None
    assert many + 64 == pytest.approx(16 * (few + 64), rel=0.01)
    normal = (1.645 + 0.842) * 0.01 / LIMIT_NATS
    assert few + 64 == pytest.approx(64 * normal**2, rel=0.01)


def test_chunks_to_decide_reach_the_fewest_clusters() -> None:
    assert more(paired(clusters=4, effective_clusters=4, standard_error=1e-9)) == 16


@pytest.mark.parametrize(
    "estimate",
    [
        paired(mean=LIMIT_NATS),
        paired(mean=LIMIT_NATS + 1e-9),
        paired(mean=math.nan),
        paired(standard_error=math.inf),
    ],
)
def test_no_number_of_chunks_decides_at_the_limit(estimate: PairedEstimate) -> None:
    assert more(estimate) is None


def shares(
    skewed: float, true_nats: float, simulations: int, seed: int = 11
) -> tuple[float, float]:
    """Shares of PASS and REGRESSED over all looks, chunks scattered over 62 documents."""
    rng = np.random.default_rng(seed)
    shape = 4 / skewed**2 if skewed else 0
    labels: list[int | None] = [chunk % 62 for chunk in range(64)]
    tokens = np.full(64, 256)
    counts = dict.fromkeys(Outcome, 0)
    for _ in range(simulations):
        noise = (
            math.copysign(1, skewed) * (rng.gamma(shape, size=64) - shape) / math.sqrt(shape)
            if skewed
            else rng.standard_normal(64)
        )
        sums = (0.01 * noise + true_nats) * tokens
        for look in plan_looks((), 64, 64):
            head = slice(look.chunks)
            estimate = compare_paired(np.zeros(look.chunks), sums[head], tokens[head], labels[head])
            outcome = decide(
                estimate,
                LIMIT_NATS,
                alpha_pass=look.alpha_pass,
                alpha_regressed=look.alpha_regressed,
                identical=False,
                last_look=look.is_last,
            ).outcome
            if outcome is not Outcome.UNDECIDED:
                break
        counts[outcome] += 1
    return counts[Outcome.INSIDE] / simulations, counts[Outcome.OUTSIDE] / simulations


def at_most(share: float, level: float, simulations: int) -> bool:
    """Whether a share is no more than its level allows, but for one run in a million."""
    return bool(share * simulations <= stats.binom.isf(1e-6, simulations, level))


@pytest.mark.parametrize("skewed", [0, 1, -1])
def test_levels_at_the_limit(skewed: float) -> None:
    passed, regressed = shares(skewed, LIMIT_NATS, 2000)
    assert at_most(passed, 0.05, 2000)
    assert at_most(regressed, 0.001, 2000)


def test_one_percent_is_found() -> None:
    assert shares(0, ppl_limit_nats(0.01), 500)[1] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("skewed", [0, 1, -1])
def test_levels_at_the_limit_closely(skewed: float) -> None:
    passed, regressed = shares(skewed, LIMIT_NATS, 50_000)
    assert at_most(passed, 0.05, 50_000)
    assert at_most(regressed, 0.001, 50_000)


@pytest.mark.slow
@pytest.mark.parametrize("skewed", [2, -2])
def test_levels_at_twice_the_skewness_that_the_guard_is_made_for(skewed: float) -> None:
    passed, regressed = shares(skewed, LIMIT_NATS, 50_000)
    assert passed <= 0.065
    assert regressed <= 0.004
