"""Looks: the numbers of chunks at which a cell may be decided, and what each may spend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

ALPHA_REGRESSED = 0.001
"""One-sided and fixed a cell, so that a cell alone gets the verdict it gets in the whole run."""

ALPHA_PASS = 0.05
"""One-sided; green needs every cell, so PASS needs no correction for many cells."""

MIN_CLUSTERS = 8
"""Below this a variance between clusters says too little for a verdict."""

FIRST_LOOK = 16
"""The first look where none is declared; the further ones are 32, 64, 128, …"""

_BETWEEN_SHARE = 0.25
"""What a comparison that ends between two looks may spend of what the second one could."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look: how many chunks it has, the errors that it may spend, and whether it is the last.

    A look that may spend nothing has too few clusters; bit-equal values alone are decided there.
    At the last one, or one that has the whole budget, it is no more asked what the rest may hold.
    """

    chunks: int
    alpha_pass: float
    alpha_regressed: float
    is_last: bool


def spent_fraction(n: float, first: int) -> float:
    """Return the fraction of an error that may be spent by the n-th observation: 1 − √(first/2n).

    It depends on the first look and on nothing else: 0.29 there, 0.5 at twice its size, 0.65 at
    four times, and never 1. So more observations can always follow, whatever was planned before.
    """
    return max(0.0, 1 - math.sqrt(first / (2 * n)))


def spending(looks: Sequence[int], alpha: float) -> tuple[float, ...]:
    """Share a one-sided error among looks after the last of which nothing can follow.

    Look k may spend what `spent_fraction` adds there (a spending function in the sense of Lan and
    DeMets, 1983), the last one all that is left. The shares add up to α, so the overall error is
    at most α by the union bound, whatever the correlation between looks, which a recursion over
    the multivariate normal would take to be known. It isn't here: errors are estimated, G is
    small, clusters grow between looks. What the bound costs is small this far out in the tail.

    Raises:
        ValueError: looks that don't increase, or an alpha outside (0, 1).

    """
    _check_increasing(looks)
    if not 0 < alpha < 1:
        msg = f"alpha {alpha!r}; give a probability between 0 and 1"
        raise ValueError(msg)
    spent = [spent_fraction(look, looks[0]) for look in looks[:-1]]
    return tuple(alpha * (b - a) for a, b in pairwise([0.0, *spent, 1.0]))


def plan_looks(
    declared: Sequence[int], available: int, text_chunks: int, clusters: Sequence[int] | None = None
) -> tuple[Look, ...]:
    """Plan the looks of a comparison on the chunks that both of its sides have.

    They are the declared ones (`FIRST_LOOK` if there are none), then twice the last one, four
    times, … up to what is available, and the end of the text, which may spend all that is left.
    Where the chunks end between two looks they end with a look of their own. What each may spend
    follows from its number of chunks, the declared looks and the text alone, and over all looks
    of a text, with one end between each two of them, the shares add up to at most α: raising a
    budget, or storing a longer baseline, never spends an error twice. (Where even the first look
    is beyond what is available, that is the only look, and a larger budget begins anew.)

    Args:
        declared: numbers of chunks, increasing.
        available: how many chunks of the seeded order both sides have or can be given.
        text_chunks: how many the text has.
        clusters: (≥ available,) each chunk's cluster in the order of visits. Looks with fewer than
            `MIN_CLUSTERS` spend nothing and leave their share to the next one; if left out, every
            chunk counts as a cluster.

    Raises:
        ValueError: declared looks that don't increase, or no chunks.

    """
    if not 1 <= available <= text_chunks:
        msg = f"{available} chunks of a text of {text_chunks}; give at least 1 and at most all"
        raise ValueError(msg)
    first_looks = declared or (FIRST_LOOK,)
    _check_increasing(first_looks)
    if first_looks[0] > available:
        first_looks = (available,)
    regular, between = _fractions(first_looks, text_chunks)
    labels = range(available) if clusters is None else clusters
    fractions: dict[int, float] = {}
    unspent = 0.0
    for chunks, fraction in regular.items():
        if chunks <= available:
            enough = len(set(labels[:chunks])) >= MIN_CLUSTERS
            fractions[chunks] = unspent + fraction if enough else 0.0
            unspent = 0.0 if enough else unspent + fraction
    if available not in fractions:
        enough = len(set(labels[:available])) >= MIN_CLUSTERS
        fractions[available] = between[max(fractions)] if enough else 0.0
    return tuple(
        Look(
            chunks=chunks,
            alpha_pass=ALPHA_PASS * fraction,
            alpha_regressed=ALPHA_REGRESSED * fraction,
            is_last=chunks == max(fractions),
        )
        for chunks, fraction in fractions.items()
    )


def looks_in_text_order(looks: Sequence[Look], end: int) -> tuple[Look, ...]:
    """Let looks at the beginnings of a text find a loss there, and only the end find none.

    The first chunks of a text in its own order are one topic: they say nothing of the rest. So no
    look before the end may spend an error of INSIDE, and the end may spend what they could have.

    Args:
        looks: as `plan_looks` gives them, of which those beyond the end are left as they are.
        end: how many chunks are to be compared; the first look that has as many is the end.

    """
    end = next(look.chunks for look in looks if look.is_last or look.chunks >= end)
    unspent = sum(look.alpha_pass for look in looks if look.chunks < end)
    return tuple(
        replace(look, alpha_pass=0.0, is_last=False)
        if look.chunks < end
        else replace(look, alpha_pass=look.alpha_pass + (unspent if look.chunks == end else 0.0))
        for look in looks
    )


def _fractions(
    first_looks: Sequence[int], text_chunks: int
) -> tuple[dict[int, float], dict[int, float]]:
    """Return what each look of a text may spend of an error, and an end after each of them."""
    looks = list(first_looks)
    while looks[-1] < text_chunks:
        looks.append(2 * looks[-1])
    first = looks[0]
    regular = {first: spent_fraction(first, first)} if first < text_chunks else {}
    between = {}
    for low, high in pairwise(looks):
        added = spent_fraction(high, first) - spent_fraction(low, first)
        if low < text_chunks:
            between[low] = _BETWEEN_SHARE * added
        if high < text_chunks:
            regular[high] = (1 - _BETWEEN_SHARE) * added
    regular[text_chunks] = 1 - sum(regular.values()) - sum(between.values())
    return regular, between


def _check_increasing(looks: Sequence[int]) -> None:
    if not looks or looks[0] < 1 or any(b <= a for a, b in pairwise(looks)):
        msg = f"looks {list(looks)}; give increasing numbers of chunks, such as 16, 32, 64"
        raise ValueError(msg)
