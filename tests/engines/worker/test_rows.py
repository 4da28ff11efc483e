"""Likelihoods and divergences against float64, over more rows than are worked on at once."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pytest_quantgate.engines.worker import rows
from pytest_quantgate.engines.worker.rows import divergence, score_rows
from pytest_quantgate.engines.worker.threads import Threads


def log_softmax(row: np.ndarray) -> np.ndarray:
    """Return a row's log-probabilities in float64."""
    exact = row.astype(np.float64) - float(row.max())
    result: np.ndarray = exact - np.log(np.exp(exact).sum())
    return result


@pytest.mark.parametrize("n_vocab", [90, 70_000], ids=["many rows a block", "one row a block"])
def test_scores_are_those_of_a_softmax_in_float64(n_vocab: int) -> None:
    random = np.random.default_rng(1)
    count = 5 if n_vocab > rows._BLOCK_ELEMENTS else rows._BLOCK_ELEMENTS // n_vocab + 5
    logits = (10 * random.standard_normal((count, n_vocab))).astype(np.float32)
    targets = random.integers(0, n_vocab, count)
    seen = score_rows(logits, targets)
    exact = np.array([log_softmax(row) for row in logits])
    expected = -exact[np.arange(count), targets]
    np.testing.assert_allclose(seen.nll, expected, rtol=1e-6, atol=1e-6)
    assert (seen.top == logits.argmax(axis=1)).all()
    np.testing.assert_allclose(seen.top_p, np.exp(exact).max(axis=1), rtol=1e-5)
    chosen = logits[np.arange(count), targets]
    np.testing.assert_allclose(seen.normalizer, chosen + expected, rtol=1e-6)
    assert seen.nll.dtype == seen.normalizer.dtype == np.float64
    assert seen.top.dtype == np.int32
    assert seen.top_p.dtype == np.float32


def test_ties_go_to_the_lowest_token_and_large_logits_do_not_overflow() -> None:
    seen = score_rows(np.array([[5e4, 5e4, -5e4]], dtype=np.float32), np.array([1]))
    assert seen.top.tolist() == [0]
    assert seen.nll[0] == pytest.approx(math.log(2))


def test_not_a_number_stays_one() -> None:
    seen = score_rows(np.array([[1.0, np.nan]], dtype=np.float32), np.array([0]))
    assert math.isnan(seen.nll[0])


@pytest.mark.parametrize("n_vocab", [300, 70_000], ids=["many rows a block", "one row a block"])
def test_divergence_is_its_formula(n_vocab: int) -> None:
    random = np.random.default_rng(1)
    count = 5 if n_vocab > rows._BLOCK_ELEMENTS else rows._BLOCK_ELEMENTS // n_vocab + 5
    base = random.normal(0, 6, (count, n_vocab)).astype(np.float32)
    other = (base + random.normal(0, 0.1, base.shape)).astype(np.float32)
    exact = []
    for row_b, row_q in zip(base, other, strict=True):
        log_b, log_q = log_softmax(row_b), log_softmax(row_q)
        kept = log_b > -16
        exact.append((np.exp(log_b[kept]) * (log_b[kept] - log_q[kept])).sum())
    seen = divergence(base, other)
    np.testing.assert_allclose(seen, exact, rtol=1e-5, atol=2e-7)
    known = score_rows(other, np.zeros(count, dtype=np.int32)).normalizer
    np.testing.assert_array_equal(divergence(base, other, known), seen)
    assert np.isnan(divergence(base, np.full_like(base, np.nan))).all()


@pytest.mark.parametrize("n_vocab", [7, 5000, 70_000])
def test_threads_change_no_bit(n_vocab: int) -> None:
    random = np.random.default_rng(n_vocab)
    logits, other = (random.normal(size=(37, n_vocab)).astype(np.float32) for _ in range(2))
    targets = random.integers(0, n_vocab, 37)
    one, many = score_rows(logits, targets), score_rows(logits, targets, Threads(5))
    for name in ("nll", "top", "top_p", "normalizer"):
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name))
    np.testing.assert_array_equal(
        divergence(other, logits, one.normalizer),
        divergence(other, logits, many.normalizer, Threads(5)),
    )


def test_an_error_of_one_thread_is_raised() -> None:
    def fail(item: int) -> None:
        if item == 17:
            raise MemoryError("no room")

    for threads in (Threads(1), Threads(4)):
        with pytest.raises(MemoryError, match="no room"):
            threads.each(fail, range(40))
