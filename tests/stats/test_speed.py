"""Interleaved processes: order, looks, and what their rates say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pytest_quantgate.stats import (
    MIN_PROCESSES,
    Outcome,
    SessionMean,
    SessionScatter,
    decide_slowdown,
    interleaved,
    is_narrow,
    process_looks,
    session_scatter,
    slowdown,
    slowdown_unpaired,
    slowness,
    spending,
    t_quantile,
)


@pytest.mark.parametrize(
    ("most", "looks"),
    [(5, (5,)), (6, (5, 6)), (7, (5, 7)), (14, (5, 7, 10, 14)), (20, (5, 7, 10, 14, 20))],
)
def test_looks_grow_up_to_the_budget(most: int, looks: tuple[int, ...]) -> None:
    assert process_looks(most) == looks


def test_fewer_than_five_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="4 processes a side; give at least 5"):
        process_looks(MIN_PROCESSES - 1)


def test_a_steady_drift_falls_on_both_sides_alike() -> None:
    """With A B B A the clock that sinks by 1 % a process moves no ratio of two pairs."""
    rates: tuple[list[float], list[float]] = ([], [])
    clock = 100.0
    for pair in range(6):
        for side in interleaved(pair):
            rates[side].append(clock)
            clock *= 0.99
    assert slowdown(*rates).mean == pytest.approx(0, abs=1e-12)
    one_after_the_other = slowdown([0.99**i for i in range(6)], [0.99 ** (6 + i) for i in range(6)])
    assert one_after_the_other.mean == pytest.approx(-6 * math.log(0.99))


def test_slower_is_positive() -> None:
    estimate = slowdown([10, 10, 10, 10, 10], [8, 8, 8, 8, 8])
    assert estimate.mean == pytest.approx(math.log(10 / 8))
    assert estimate.degrees_of_freedom == 4
    assert slowness([math.e, math.e]).mean == pytest.approx(-1)


def test_the_unpaired_difference_is_welchs() -> None:
    """Against scipy's, on logarithms, of unequal numbers and variances."""
    random = np.random.default_rng(5)
    before, after = np.exp(random.normal(2, 0.1, 9)), np.exp(random.normal(1.9, 0.02, 6))
    found = slowdown_unpaired(before, after)
    known = stats.ttest_ind(np.log(before), np.log(after), equal_var=False)
    assert found.mean / found.standard_error == pytest.approx(known.statistic)
    assert found.effective_clusters - 1 == pytest.approx(known.df)
    assert found.clusters == 6


def test_equal_rates_have_no_error() -> None:
    found = slowdown_unpaired([10] * 5, [10] * 7)
    assert found.mean == pytest.approx(0, abs=1e-12)
    assert found.standard_error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_is_no_speed_is_never_narrow(rate: float) -> None:
    rates = [10.0, 11.0, 10.5, 10.2, rate]
    for estimate in (slowdown([10.0] * 5, rates), slowness(rates), slowdown_unpaired(rates, rates)):
        assert not is_narrow(estimate, 0.1, 0.001)


def test_one_process_is_never_narrow() -> None:
    assert not is_narrow(slowness([10.0]), 0.1, 0.001)


def test_narrow_means_that_twice_the_margin_is_decided() -> None:
    """A slowdown of 20 % is then beyond a limit of 10 % by more than the error."""
    random = np.random.default_rng(2)
    alpha = spending(process_looks(14), 0.001)[0]
    narrow = 0
    for _ in range(200):
        noise = random.normal(0, 0.008, (2, 5))
        estimate = slowdown(*np.exp(noise + np.log([[100.0], [80.0]])))
        if is_narrow(estimate, 0.1, alpha):
            narrow += 1
            half = t_quantile(4, alpha) * estimate.standard_error
            assert estimate.mean - half > -math.log(0.9)
    assert narrow > 50


def test_noise_that_is_the_same_on_both_sides_is_seldom_outside() -> None:
    """At most twice the nominal share, of looks that end when the interval is narrow."""
    random = np.random.default_rng(11)
    looks = process_looks(14)
    shares = spending(looks, 0.05)
    outside, runs = 0, 4000
    for _ in range(runs):
        logs = random.normal(0, 0.05, 14)
        for look, share in zip(looks, shares, strict=True):
            estimate = slowdown(np.ones(look), np.exp(logs[:look]))
            half = t_quantile(look - 1, share) * estimate.standard_error
            if is_narrow(estimate, 0.1, share) or look == looks[-1]:
                outside += abs(estimate.mean) > half
                break
    assert outside / runs < 2 * 2 * 0.05


def paired_run(random: np.random.Generator, ratio: float, scatter: float) -> tuple[Outcome, int]:
    """Compare two sides at each look until they are decided; return how, and after how many."""
    looks = process_looks(40)
    logs = random.normal(0, scatter, (2, looks[-1]))
    for look in looks:
        estimate = slowdown(np.exp(logs[0, :look]), ratio * np.exp(logs[1, :look]))
        outcome = decide_slowdown(estimate, -math.log(0.9), looks, look).outcome
        if outcome in {Outcome.INSIDE, Outcome.OUTSIDE}:
            break
    return outcome, look


@pytest.mark.parametrize(
    ("ratio", "outcome", "median"), [(1.0, Outcome.INSIDE, 10), (0.8, Outcome.OUTSIDE, 16)]
)
def test_clear_comparisons_of_scattered_speeds_are_decided_after_few_pairs(
    ratio: float, outcome: Outcome, median: int
) -> None:
    """Until the interval was narrower than 10 % both took 37 pairs at a scatter of 5 %."""
    random = np.random.default_rng(8)
    runs = [paired_run(random, ratio, 0.05) for _ in range(300)]
    assert sum(found is outcome for found, _ in runs) >= 0.95 * 300
    assert np.median([pairs for _, pairs in runs]) <= median


def test_a_loss_at_the_limit_is_seldom_decided() -> None:
    random = np.random.default_rng(9)
    outcomes = [paired_run(random, 0.9, 0.05)[0] for _ in range(1000)]
    assert outcomes.count(Outcome.INSIDE) / 1000 <= 0.065
    assert outcomes.count(Outcome.OUTSIDE) <= 5


def sessions(*means: float, variance: float = 0.0) -> list[SessionMean]:
    return [SessionMean(mean=mean, variance=variance) for mean in means]


def test_what_scatters_between_sessions_is_what_their_processes_do_not_explain() -> None:
    means = (4.60, 4.62, 4.64, 4.62, 4.62)
    found = session_scatter([sessions(*means), sessions(5.0, variance=9.0)])
    assert found is not None
    assert found.variance == pytest.approx(0.0002)
    assert found.degrees_of_freedom == 4
    explained = session_scatter([sessions(*means, variance=0.0001)])
    assert explained is not None
    assert explained.variance == pytest.approx(0.0001)
    all_explained = session_scatter([sessions(*means, variance=0.01)])
    assert all_explained is not None
    assert all_explained.variance == 0


def test_another_engine_is_no_scatter_of_the_machine() -> None:
    """A build that is 20 % slower differs between groups, and its sessions agree."""
    found = session_scatter([sessions(4.60, 4.62, 4.64), sessions(4.40, 4.42, 4.44)])
    assert found is not None
    assert found.variance == pytest.approx(0.0004)
    assert found.degrees_of_freedom == 4


@pytest.mark.parametrize(
    "groups", [[], [[4.6]], [[4.6, 4.7, 4.6, 4.7]], [[4.6], [4.7], [4.8], [4.6], [4.7]]]
)
def test_too_few_sessions_say_nothing(groups: list[list[float]]) -> None:
    assert session_scatter([sessions(*group) for group in groups]) is None


def test_the_scatter_between_sessions_is_in_the_error_twice() -> None:
    """Each of the two sessions has its own."""
    rates = [10.0, 10.1, 9.9, 10.0, 10.05]
    alone = slowdown_unpaired(rates, rates)
    between = SessionScatter(variance=0.0004, degrees_of_freedom=9)
    found = slowdown_unpaired(rates, rates, between=between)
    assert found.standard_error**2 == pytest.approx(alone.standard_error**2 + 0.0008)
    assert found.degrees_of_freedom == pytest.approx(9, rel=0.2)
    assert found.clusters == 5
