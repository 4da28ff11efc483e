"""A change of the runtime alone: the rule, and what it says of real differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pytest_quantgate.stats import (
    Look,
    Outcome,
    PairedEstimate,
    RuntimeDecision,
    compare_paired,
    decide_runtime_change,
    kld_limit_nats,
    ppl_limit_nats,
)

LIMIT_NATS = ppl_limit_nats(0.0025)
LOOK = Look(chunks=16, alpha_pass=0.02, alpha_regressed=0.0003, is_last=True)


def estimate(mean: float, standard_error: float) -> PairedEstimate:
    return PairedEstimate(
        mean=mean,
        standard_error=standard_error,
        skewness=0.0,
        skewness_error=0.6,
        clusters=16,
        effective_clusters=16.0,
        tokens=4096,
        chunks=16,
        chunks_differing=16,
    )


def decided(perplexity: PairedEstimate, divergence: PairedEstimate) -> RuntimeDecision:
    return decide_runtime_change(
        perplexity,
        divergence,
        ppl_limit_nats=LIMIT_NATS,
        kld_limit_nats=0.001,
        look=LOOK,
    )


@pytest.mark.parametrize(
    ("perplexity", "divergence", "outcome"),
    [
        (estimate(0.001, 0.002), estimate(0.0, 0.0002), Outcome.INSIDE),
        (estimate(0.001, 0.010), estimate(0.0, 0.0002), Outcome.UNDECIDED),
        (estimate(0.001, 0.002), estimate(0.001, 0.0002), Outcome.UNDECIDED),
        (estimate(0.001, 0.002), estimate(0.003, 0.0002), Outcome.OUTSIDE),
        (estimate(0.020, 0.002), estimate(0.0, 0.0002), Outcome.OUTSIDE),
        (estimate(float("nan"), 0.002), estimate(0.003, 0.0002), Outcome.NOT_FINITE),
        (estimate(0.001, 0.002), estimate(float("nan"), 0.0002), Outcome.NOT_FINITE),
    ],
)
def test_the_divergence_decides_together_with_perplexity(
    perplexity: PairedEstimate, divergence: PairedEstimate, outcome: Outcome
) -> None:
    assert decided(perplexity, divergence).outcome is outcome


def test_the_decisions_that_it_follows_from_are_kept() -> None:
    decision = decided(estimate(0.001, 0.002), estimate(0.0, 0.0002))
    assert decision.perplexity.outcome is Outcome.UNDECIDED
    assert decision.perplexity_allowance.outcome is decision.divergence.outcome is Outcome.INSIDE
    assert decision.perplexity_allowance.limit == 4 * LIMIT_NATS


def test_values_that_are_bit_equal_are_inside() -> None:
    same = compare_paired([1.0] * 16, [1.0] * 16, [1] * 16)
    decision = decide_runtime_change(
        same, same, ppl_limit_nats=LIMIT_NATS, kld_limit_nats=0.001, look=LOOK, identical=True
    )
    assert decision.outcome is Outcome.INSIDE


def test_a_change_in_few_chunks_waits_for_the_last_look() -> None:
    few = replace(estimate(0.0, 0.0002), chunks_differing=3)
    early = replace(LOOK, is_last=False)
    decision = decide_runtime_change(
        few, few, ppl_limit_nats=LIMIT_NATS, kld_limit_nats=0.001, look=early
    )
    assert decision.outcome is Outcome.UNDECIDED


@pytest.mark.parametrize(
    ("kld_nats", "limit_nats"), [(0.0, 0.00075), (0.02, 0.00075), (0.05, 0.0015), (1.0, 0.0025)]
)
def test_the_divergence_may_rise_by_a_share_within_what_perplexity_may(
    kld_nats: float, limit_nats: float
) -> None:
    assert kld_limit_nats(kld_nats, 0.0025, 0.03) == pytest.approx(limit_nats)


def test_damage_that_both_show_is_outside_where_perplexity_alone_cannot_tell() -> None:
    """+0.6 % of perplexity at a chunk's scatter of 0.02 nats is below two standard errors."""
    rng = np.random.default_rng(3)
    tokens, zeros = np.full(32, 256), np.zeros(32)
    nll = (0.006 + 0.02 * rng.standard_normal(32)) * tokens
    kld = (0.006 + 0.003 * rng.standard_normal(32)) * tokens
    decision = decided(
        compare_paired(zeros, nll, tokens, list(range(32))),
        compare_paired(zeros, kld, tokens, list(range(32))),
    )
    assert decision.perplexity.outcome is Outcome.UNDECIDED
    assert decision.outcome is Outcome.OUTSIDE
