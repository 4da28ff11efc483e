"""Estimates: against scipy, a worked example, and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pytest_quantgate.stats import (
    cluster_labels,
    compare_paired,
    estimate_mean,
    interval,
    mean_and_standard_error,
    paired_log_ratio,
    percentile,
    ppl_change,
    ppl_limit_nats,
    ppl_ratio_interval,
)

FINITE = st.floats(-1e3, 1e3, allow_subnormal=False)
CHUNKS = st.lists(
    st.tuples(FINITE, FINITE, st.integers(1, 512), st.integers(0, 5) | st.none()),
    min_size=2,
    max_size=24,
)


def test_clusters_of_one_chunk_are_scipys_paired_t_test() -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(800, 60, 20)
    b = a + rng.normal(2, 3, 20)
    estimate = compare_paired(a, b, [256] * 20, list(range(20)))
    expected = stats.ttest_rel(b / 256, a / 256)
    assert estimate.mean / estimate.standard_error == pytest.approx(expected.statistic, rel=1e-12)
    assert estimate.degrees_of_freedom == expected.df
    low, high = expected.confidence_interval(0.95)
    assert interval(estimate, 0.05) == pytest.approx((low, high), rel=1e-12)


def test_worked_example() -> None:
    """Three documents of 2, 1 and 1 chunks, by hand.

    Differences 4, 2 | 1 | 1 nats over 10, 10 | 10 | 20 tokens: mean 8/50 = 0.16. Documents'
    residuals 6 − 3.2, 1 − 1.6, 1 − 3.2 = 2.8, −0.6, −2.2: squares 7.84 + 0.36 + 4.84 = 13.04, times
    3/2 / 2500. Chunks' residuals 2.4, 0.4, −0.6, −2.2: 11.12, times 4/3 / 2500, is less.
    """
    estimate = compare_paired([5, 5, 5, 9], [9, 7, 6, 10], [10, 10, 10, 20], [7, 7, 3, 12])
    assert estimate.mean == pytest.approx(0.16)
    assert estimate.standard_error == pytest.approx(math.sqrt(13.04 * 3 / 2) / 50)
    assert estimate.clusters == 3
    assert estimate.effective_clusters == pytest.approx(50**2 / (20**2 + 10**2 + 20**2))
    assert estimate.degrees_of_freedom == estimate.effective_clusters - 1
    assert (estimate.tokens, estimate.chunks, estimate.chunks_differing) == (50, 4, 4)


def test_the_larger_error_counts_and_the_clusters_stay_the_documents() -> None:
    """Two chunks of a document that cancel make its error vanish, not the doubt."""
    estimate = estimate_mean([1, -1, 1, -1], [1] * 4, [0, 0, 1, 1])
    assert estimate.standard_error == pytest.approx(math.sqrt(4 / 3 * 4) / 4)
    assert estimate.degrees_of_freedom == 1


def test_blocks_of_four_neighbours_where_no_document_is_declared() -> None:
    assert cluster_labels(None, [0, 3, 4, 7, 8]).tolist() == [0, 0, 1, 1, 2]
    assert cluster_labels([None, 0, None, 0], [0, 1, 2, 9]).tolist() == [0, 1, 0, 1]


def test_skewness_is_scipys() -> None:
    values = np.random.default_rng(0).exponential(size=30)
    estimate = estimate_mean(values, np.ones(30), list(range(30)))
    assert estimate.skewness == pytest.approx(stats.skew(values, bias=False))
    assert estimate.skewness_error == pytest.approx(math.sqrt(6 / 30))


@given(CHUNKS, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(
    chunks: list[tuple[float, float, int, int | None]], random: np.random.Generator
) -> None:
    rows = [(*chunk, position) for position, chunk in enumerate(chunks)]
    shuffled = list(rows)
    random.shuffle(shuffled)
    first, second = (compare_paired(*map(list, zip(*r, strict=True))) for r in (rows, shuffled))
    assert second.mean == pytest.approx(first.mean, abs=1e-9)
    assert second.standard_error == pytest.approx(first.standard_error, abs=1e-9)
    assert second.clusters == first.clusters


@given(CHUNKS, st.floats(0.01, 100))
def test_scale_and_sign_carry_through(
    chunks: list[tuple[float, float, int, int | None]], scale: float
) -> None:
    a, b, tokens, documents = map(list, zip(*chunks, strict=True))
    plain = compare_paired(a, b, tokens, documents)
    scaled = compare_paired(np.multiply(a, scale), np.multiply(b, scale), tokens, documents)
    swapped = compare_paired(b, a, tokens, documents)
    assert scaled.mean == pytest.approx(plain.mean * scale, abs=1e-7)
    assert scaled.standard_error == pytest.approx(plain.standard_error * scale, abs=1e-7)
    assert swapped.mean == -plain.mean
    assert swapped.standard_error == plain.standard_error


@given(CHUNKS, st.integers(0), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_a_value_that_is_not_finite_never_disappears(
    chunks: list[tuple[float, float, int, int | None]], where: int, bad: float
) -> None:
    a, b, tokens, documents = map(list, zip(*chunks, strict=True))
    b[where % len(b)] = bad
    assert not math.isfinite(compare_paired(a, b, tokens, documents).mean)


def test_infinite_on_both_sides_is_not_a_difference_of_zero() -> None:
    assert math.isnan(compare_paired([math.inf, 1], [math.inf, 1], [1, 1]).mean)


def test_one_cluster_says_nothing_about_the_error() -> None:
    estimate = estimate_mean([1.0, 2.0], [1, 1], [5, 5])
    assert estimate.standard_error == math.inf
    assert interval(estimate) == (-math.inf, math.inf)
    assert ppl_ratio_interval(estimate) == (-1.0, math.inf)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "at least one chunk"),
        (([1, 2], [1]), "one value per chunk"),
        (([1, 2], [1, 0]), "0 tokens"),
        (([1, 2], [1, math.nan]), "nan tokens"),
        (([1, 2], [1, 1], [1]), "1 documents for 2 chunks"),
        (([1, 2], [1, 1], None, [0]), "order"),
    ],
)
def test_malformed_inputs_are_named(arguments: tuple[list[float], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_mean(*arguments)  # type: ignore[arg-type]


def test_sides_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="chunks that both have"):
        compare_paired([1, 2], [1], [1, 1])


@given(st.floats(-0.9, 10))
def test_nats_and_relative_changes_are_inverse(change: float) -> None:
    assert ppl_change(ppl_limit_nats(change)) == pytest.approx(change, abs=1e-12)


def test_the_ppl_interval_is_the_exponential_of_the_interval() -> None:
    estimate = compare_paired([1, 2, 3], [1.1, 2.3, 3.1], [1, 1, 1], [0, 1, 2])
    low, high = interval(estimate, 0.1)
    assert ppl_ratio_interval(estimate, 0.1) == pytest.approx(
        (math.exp(low) - 1, math.exp(high) - 1)
    )


def test_speed_is_a_t_on_log_ratios() -> None:
    a, b = np.array([50.0, 52, 49, 51, 50]), np.array([45.0, 47, 45, 46, 44])
    estimate = paired_log_ratio(a, b)
    expected = stats.ttest_rel(np.log(b), np.log(a))
    low, high = expected.confidence_interval(0.95)
    assert interval(estimate, 0.05) == pytest.approx((low, high))
    assert estimate.clusters == 5
    assert ppl_change(estimate.mean) == pytest.approx(stats.gmean(b) / stats.gmean(a) - 1)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_is_none_gives_no_ratio(bad: float) -> None:
    assert not math.isfinite(paired_log_ratio([1, 2, 3], [1, bad, 3]).mean)


@given(st.lists(FINITE, min_size=1, max_size=30), st.floats(0, 1))
def test_percentile_is_llama_cpps_interpolation(values: list[float], fraction: float) -> None:
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    index = int(position)
    rest = position - index
    upper = ordered[min(index + 1, len(ordered) - 1)]
    expected = (1 - rest) * ordered[index] + rest * upper
    assert percentile(values, fraction) == pytest.approx(expected, abs=1e-9)


def test_percentile_of_nan_is_nan() -> None:
    assert math.isnan(percentile([1.0, math.nan, 2.0], 0.01))


def test_the_error_of_a_proportion() -> None:
    mean, error = mean_and_standard_error([1] * 30 + [0] * 10)
    assert mean == 0.75
    assert error == pytest.approx(math.sqrt(0.75 * 0.25 / 39))
    assert mean_and_standard_error([3.0]) == (3.0, math.inf)
    with pytest.raises(ValueError, match="no values"):
        mean_and_standard_error([])


@pytest.mark.parametrize("sizes", [[20, 5, 5, 3, 3, 2, 2, 2, 1, 1], [10, 2, 2, 2, 2, 2, 2, 2]])
def test_the_interval_covers_where_one_document_is_most_of_the_text(sizes: list[int]) -> None:
    """With G − 1 degrees of freedom it covered 85 and 90 % of the time; G* is 4 here."""
    rng = np.random.default_rng(4)
    documents = np.repeat(np.arange(len(sizes)), sizes)
    covered = 0
    for _ in range(1000):
        sums = rng.normal(0, np.sqrt(0.5), len(documents))
        sums += rng.normal(0, np.sqrt(0.5), len(sizes))[documents]
        low, high = interval(estimate_mean(sums, np.ones(len(documents)), documents.tolist()))
        covered += low <= 0 <= high
    assert 0.925 <= covered / 1000 <= 0.98
