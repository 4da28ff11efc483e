"""Looks: where they are, what they spend, and that nothing is spent twice."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.stats import (
    ALPHA_PASS,
    ALPHA_REGRESSED,
    MIN_CLUSTERS,
    Look,
    looks_in_text_order,
    plan_looks,
    spending,
)

DECLARED = st.lists(st.integers(1, 200), max_size=4, unique=True).map(sorted)


def positions(looks: tuple[Look, ...]) -> list[int]:
    return [look.chunks for look in looks]


def fractions(looks: tuple[Look, ...]) -> dict[int, float]:
    """Return what each look may spend of an error."""
    return {look.chunks: look.alpha_pass / ALPHA_PASS for look in looks}


@given(DECLARED, st.integers(1, 400), st.integers(1, 400))
def test_in_text_order_the_end_alone_passes_with_all_that_the_looks_before_had(
    declared: list[int], available: int, end: int
) -> None:
    looks = plan_looks(declared, available, 400)
    ordered = looks_in_text_order(looks, end)
    passing = [look for look in ordered if look.alpha_pass]
    assert sum(look.alpha_pass for look in ordered) == pytest.approx(
        sum(look.alpha_pass for look in looks)
    )
    assert all(look.chunks >= min(end, available) for look in passing)
    assert [look.alpha_regressed for look in ordered] == [look.alpha_regressed for look in looks]


@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=6, unique=True).map(sorted),
    st.floats(1e-6, 0.5),
)
def test_the_shares_of_alpha_add_up(looks: list[int], alpha: float) -> None:
    shares = spending(looks, alpha)
    assert sum(shares) == pytest.approx(alpha)
    assert min(shares) > 0


def test_a_quarter_and_more_is_spent_at_the_first_look() -> None:
    assert spending((16, 32, 64), 0.01) == pytest.approx((0.00293, 0.00207, 0.005), abs=1e-5)


@pytest.mark.parametrize("looks", [[], [0, 16], [16, 16], [32, 16]])
def test_looks_must_increase(looks: list[int]) -> None:
    with pytest.raises(ValueError, match="increasing"):
        spending(looks, 0.05)
    if looks:
        with pytest.raises(ValueError, match="increasing"):
            plan_looks(looks, 64, 64)


@pytest.mark.parametrize("alpha", [0, 1, math.nan, -0.1])
def test_what_is_shared_is_a_probability(alpha: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        spending((16, 32), alpha)


@pytest.mark.parametrize("available", [0, 65])
def test_a_comparison_has_chunks_of_the_text(available: int) -> None:
    with pytest.raises(ValueError, match=f"{available} chunks of a text of 64"):
        plan_looks((), available, 64)


@pytest.mark.parametrize(
    ("declared", "available", "text_chunks", "looks"),
    [
        ((), 560, 560, [16, 32, 64, 128, 256, 512, 560]),
        ((), 61, 61, [16, 32, 61]),
        ((), 64, 64, [16, 32, 64]),
        ((), 64, 560, [16, 32, 64]),
        ((), 100, 560, [16, 32, 64, 100]),
        ((), 12, 560, [12]),
        ((16, 32), 128, 560, [16, 32, 64, 128]),
        ((8, 20), 61, 61, [8, 20, 40, 61]),
        ((20,), 16, 560, [16]),
        ((16,), 8, 8, [8]),
    ],
)
def test_looks_go_on_by_doubling_to_what_both_sides_have(
    declared: tuple[int, ...], available: int, text_chunks: int, looks: list[int]
) -> None:
    plan = plan_looks(declared, available, text_chunks)
    assert positions(plan) == looks
    assert [look.is_last for look in plan] == [False] * (len(looks) - 1) + [True]


def test_the_end_of_the_text_spends_what_is_left() -> None:
    plan = plan_looks((), 64, 64)
    assert 0.9 * ALPHA_REGRESSED < sum(look.alpha_regressed for look in plan) <= ALPHA_REGRESSED


@given(DECLARED, st.integers(1, 700), st.lists(st.integers(1, 700), min_size=1, max_size=12))
def test_raising_a_budget_never_spends_an_error_twice(
    declared: list[int], text_chunks: int, budgets: list[int]
) -> None:
    """Whatever was available in turn, all looks together spend at most the whole."""
    first = declared[0] if declared else 16
    regular = set(positions(plan_looks(declared, text_chunks, text_chunks)))
    most: dict[int, float] = {}
    for budget in budgets:
        available = min(budget, text_chunks)
        if available < min(first, text_chunks):
            continue
        for chunks, share in fractions(plan_looks(declared, available, text_chunks)).items():
            # Of ends between two looks one is allowed for: the last look that is below it.
            look = chunks if chunks in regular else -max(n for n in regular if n < chunks)
            most[look] = max(share, most.get(look, 0.0))
    assert sum(most.values()) <= 1 + 1e-12


@given(DECLARED, st.integers(1, 300), st.integers(1, 300), st.integers(1, 8))
def test_looks_of_few_clusters_spend_nothing(
    declared: list[int], text_chunks: int, budget: int, chunks_a_cluster: int
) -> None:
    available = min(budget, text_chunks)
    labels = [chunk // chunks_a_cluster for chunk in range(text_chunks)]
    plan = plan_looks(declared, available, text_chunks, labels)
    for look in plan:
        assert (look.alpha_pass > 0) == (len(set(labels[: look.chunks])) >= MIN_CLUSTERS)
    assert sum(look.alpha_regressed for look in plan) <= ALPHA_REGRESSED * (1 + 1e-12)


def test_what_a_look_of_few_clusters_does_not_spend_goes_to_the_next() -> None:
    labels = [chunk // 4 for chunk in range(64)]
    early, later, last = plan_looks((16, 32), 64, 64, labels)
    alone = plan_looks((16, 32), 64, 64)
    assert early.alpha_pass == 0
    assert later.alpha_pass == pytest.approx(alone[0].alpha_pass + alone[1].alpha_pass)
    assert last.alpha_pass == pytest.approx(alone[2].alpha_pass)
