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
    ppl_limit_nats,
    spending,
    upper_bound,
)

LIMIT_NATS = ppl_limit_nats(0.0025)
LOOKS = (16, 32, 64)


def paired(**changes: object) -> PairedEstimate:
    """Make an estimate of +0.1 % ± 0.02 % over 16 documents, but for the changes."""
    estimate = PairedEstimate(
        mean=0.001,
        standard_error=0.0002,
        skewness=0.0,
        skewness_error=0.0,
        clusters=16,
        effective_clusters=16.0,
        degrees_of_freedom=15,
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


def test_the_guard_inverts_halls_transformation() -> None:
    """Hall: g + γg²/(3√G) + γ²g³/(27G) + γ/(6√G) of the bound's t is the nominal quantile."""
    gamma, clusters = -1.2, 32
    estimate = paired(mean=0.0, standard_error=1.0, skewness=gamma, effective_clusters=clusters)
    t = -lower_bound(estimate, 0.01)
    root = math.sqrt(clusters)
    cubic = t + gamma * t**2 / (3 * root) + gamma**2 * t**3 / (27 * clusters) + gamma / (6 * root)
    assert cubic == pytest.approx(stats.t.isf(0.01, clusters - 1))


@pytest.mark.parametrize(
    ("estimate", "outcome", "reason"),
    [
        (paired(), Outcome.INSIDE, Reason.BOUND),
        (paired(mean=0.01), Outcome.OUTSIDE, Reason.BOUND),
        (paired(mean=LIMIT_NATS), Outcome.UNDECIDED, Reason.BETWEEN),
        (paired(chunks_differing=7), Outcome.UNDECIDED, Reason.FEW_DIFFER),
        (paired(mean=0.01, chunks_differing=7), Outcome.OUTSIDE, Reason.BOUND),
        (paired(clusters=7, degrees_of_freedom=6), Outcome.UNDECIDED, Reason.FEW_CLUSTERS),
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


@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=6, unique=True).map(sorted),
    st.floats(1e-6, 0.5),
)
def test_the_shares_of_alpha_add_up(looks: list[int], alpha: float) -> None:
    shares = spending(looks, alpha)
    assert sum(shares) == pytest.approx(alpha)
    assert min(shares) > 0


def test_the_default_looks_share_a_quarter_a_quarter_a_half() -> None:
    assert spending(LOOKS, 0.04) == pytest.approx((0.01, 0.01, 0.02))


@pytest.mark.parametrize("looks", [[], [0, 16], [16, 16], [32, 16]])
def test_looks_must_increase(looks: list[int]) -> None:
    with pytest.raises(ValueError, match="increasing"):
        spending(looks, 0.05)


@pytest.mark.parametrize("alpha", [0, 1, math.nan, -0.1])
def test_alpha_is_a_probability(alpha: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        spending(LOOKS, alpha)
    with pytest.raises(ValueError, match="between 0 and 1"):
        upper_bound(paired(), alpha)


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
    assert (
        more(paired(clusters=4, effective_clusters=4, degrees_of_freedom=3, standard_error=1e-9))
        == 16
    )


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
    alphas = list(zip(LOOKS, spending(LOOKS, 0.05), spending(LOOKS, 0.001), strict=True))
    counts = dict.fromkeys(Outcome, 0)
    for _ in range(simulations):
        noise = (
            math.copysign(1, skewed) * (rng.gamma(shape, size=64) - shape) / math.sqrt(shape)
            if skewed
            else rng.standard_normal(64)
        )
        sums = (0.01 * noise + true_nats) * tokens
        for chunks, alpha_pass, alpha_regressed in alphas:
            estimate = compare_paired(
                np.zeros(chunks), sums[:chunks], tokens[:chunks], labels[:chunks]
            )
            outcome = decide(
                estimate,
                LIMIT_NATS,
                alpha_pass=alpha_pass,
                alpha_regressed=alpha_regressed,
                identical=False,
                last_look=chunks == 64,
            ).outcome
            if outcome is not Outcome.UNDECIDED:
                break
        counts[outcome] += 1
    return counts[Outcome.INSIDE] / simulations, counts[Outcome.OUTSIDE] / simulations


def at_most(share: float, level: float, simulations: int) -> bool:
    """Whether a share is no more than its level allows, but for one run in a million."""
    return bool(share * simulations <= stats.binom.isf(1e-6, simulations, level))


@pytest.mark.parametrize("skewed", [0, 1, -1, 2, -2])
def test_levels_at_the_limit(skewed: float) -> None:
    passed, regressed = shares(skewed, LIMIT_NATS, 2000)
    assert at_most(passed, 0.05, 2000)
    assert at_most(regressed, 0.001, 2000)


def test_one_percent_is_found() -> None:
    assert shares(0, ppl_limit_nats(0.01), 500)[1] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("skewed", [0, 1, -1, 2, -2])
def test_levels_at_the_limit_closely(skewed: float) -> None:
    passed, regressed = shares(skewed, LIMIT_NATS, 50_000)
    assert at_most(passed, 0.05, 50_000)
    assert at_most(regressed, 0.001, 50_000)
