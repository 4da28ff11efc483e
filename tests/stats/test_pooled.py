"""The mean shift over cells."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_quantgate.stats import CellShift, estimate_mean, interval, lower_bound, pooled_shift


def cell(per_token: np.ndarray, tokens: int = 256, first_document: int = 0) -> CellShift:
    """Make a cell whose chunks are a document each."""
    n_chunks = len(per_token)
    return CellShift(
        differences=per_token * tokens,
        tokens=np.full(n_chunks, tokens),
        clusters=range(first_document, first_document + n_chunks),
    )


def test_one_cell_is_its_own_mean() -> None:
    drawn = np.random.default_rng(1).normal(0.001, 0.01, 30)
    pooled = pooled_shift([cell(drawn)])
    alone = estimate_mean(drawn * 256, np.full(30, 256), list(range(30)))
    assert pooled.mean == pytest.approx(alone.mean)
    assert pooled.standard_error == pytest.approx(alone.standard_error)
    assert pooled.skewness == pytest.approx(alone.skewness)
    assert pooled.effective_clusters == pytest.approx(30)


def test_the_same_cell_twice_says_no_more_than_once() -> None:
    drawn = np.random.default_rng(1).normal(0.001, 0.01, 30)
    once, twice = pooled_shift([cell(drawn)]), pooled_shift([cell(drawn), cell(drawn)])
    assert twice.standard_error == pytest.approx(once.standard_error)


def test_cells_of_other_documents_are_independent() -> None:
    drawn = np.random.default_rng(1).normal(0, 0.01, 30)
    once = pooled_shift([cell(drawn)])
    twice = pooled_shift([cell(drawn), cell(drawn, first_document=30)])
    assert twice.standard_error == pytest.approx(once.standard_error / np.sqrt(2), rel=0.02)
    assert twice.clusters == 60


def test_a_cell_that_did_not_move_is_left_out() -> None:
    drawn = np.random.default_rng(1).normal(0.001, 0.01, 30)
    assert pooled_shift([cell(drawn), cell(np.zeros(30))]) == pooled_shift([cell(drawn)])
    with pytest.raises(ValueError, match="none of which moved"):
        pooled_shift([cell(np.zeros(30))])


def test_a_coarse_format_does_not_drown_the_others() -> None:
    rng = np.random.default_rng(2)
    fine, coarse = rng.normal(0.001, 0.002, 40), rng.normal(0, 0.2, 40)
    assert pooled_shift([cell(fine), cell(coarse)]).standard_error < 0.002


def test_a_value_that_is_not_finite_is_not_averaged_away() -> None:
    broken = np.array([0.001] * 20 + [np.nan])
    assert np.isnan(pooled_shift([cell(broken), cell(np.full(21, 0.001))]).mean)


def drawn_cells(rng: np.random.Generator, shift: float, skewed: bool) -> list[CellShift]:
    """Make 12 cells of 16 chunks, half of the variance common to all of them."""

    def noise(*shape: int) -> np.ndarray:
        return 2 - rng.gamma(4, size=shape) / 2 if skewed else rng.standard_normal(shape)

    common = noise(16)
    scatters = 0.002 * 2.0 ** np.arange(12) ** 0.5
    return [
        cell(shift + scatter * (np.sqrt(0.5) * common + np.sqrt(0.5) * noise(16)))
        for scatter in scatters
    ]


def test_its_interval_covers_what_cells_have_in_common() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(2000):
        low, high = interval(pooled_shift(drawn_cells(rng, 0.001, skewed=False)))
        covered += low <= 0.001 <= high
    assert 0.935 <= covered / 2000 <= 0.965


@pytest.mark.parametrize("skewed", [False, True])
def test_it_seldom_finds_a_shift_that_is_not_there(skewed: bool) -> None:
    rng = np.random.default_rng(6)
    raised = sum(
        lower_bound(pooled_shift(drawn_cells(rng, 0.0, skewed)), 0.01) > 0 for _ in range(2000)
    )
    assert raised / 2000 <= 0.015


def test_it_finds_a_small_common_loss_that_no_cell_shows() -> None:
    """0.2 standard deviations of each cell's chunks, whose noise is the cell's own."""
    rng = np.random.default_rng(8)
    cells = [cell(rng.normal(0.0004, 0.002, 48)) for _ in range(24)]
    assert lower_bound(pooled_shift(cells), 0.001) > 0
    assert not any(lower_bound(pooled_shift([one]), 0.001) > 0 for one in cells)
