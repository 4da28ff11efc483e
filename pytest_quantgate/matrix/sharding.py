"""Cuts a matrix into shards, a part for each of several jobs.

Each job finds its own part from the settings alone, so that it neither asks the others nor looks
for a model of which it has no cell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from pytest_quantgate.config.shards import Shard

if TYPE_CHECKING:
    from pytest_quantgate.matrix.cells import Cell

_SLACK = 4
"""A cut may move by a shard's length divided by this."""


def cut(sizes: Sequence[int], count: int) -> tuple[int, ...]:
    """Return the ``count`` + 1 places at which a row of groups is cut into shards.

    The cells of all groups stand in one row; shard k is what lies between places k − 1 and k. The
    cuts are even, but one goes to the nearest border between two groups if that is at most a
    quarter of a shard away. So a shard has at most half as much again as an even part (and one
    cell more), and the groups are split only where that would not do.
    """
    total = sum(sizes)
    borders = [0]
    for size in sizes:
        borders.append(borders[-1] + size)
    places = []
    for number in range(count + 1):
        # All in units of 1/count of a cell, so that no rounding moves a cut.
        even = total * number
        border = min(borders, key=lambda place: (abs(place * count - even), place))
        is_near = abs(border * count - even) * _SLACK <= total
        places.append(border if is_near else even // count)
    return tuple(places)


def _group(cell: Cell) -> tuple[str, str, str]:
    """Return what shares a reference measurement: the model, the text and the device."""
    return cell.model, cell.text, cell.device


def _shares(
    nominal: Iterable[Cell], shard: Shard
) -> dict[tuple[str, str, str], tuple[int, int, int]]:
    """Return for each group that a shard has a part of: its start, its end, the group's size."""
    sizes = {key: len(list(cells)) for key, cells in groupby(nominal, key=_group)}
    places = cut(tuple(sizes.values()), shard.count)
    first, last = places[shard.number - 1], places[shard.number]
    shares, begin = {}, 0
    for key, size in sizes.items():
        start, stop = max(first - begin, 0), min(last - begin, size)
        if start < stop:
            shares[key] = (start, stop, size)
        begin += size
    return shares


def hash_matrix(nominal: Iterable[Cell]) -> str:
    """Return what two jobs must have in common that cut one matrix."""
    return hashlib.sha256("\n".join(cell.id for cell in nominal).encode()).hexdigest()


def models_of(nominal: Iterable[Cell], shard: Shard) -> frozenset[str]:
    """Return the models of which a shard has cells."""
    return frozenset(model for model, _, _ in _shares(nominal, shard))


def cells_of(nominal: Iterable[Cell], cells: Iterable[Cell], shard: Shard) -> tuple[Cell, ...]:
    """Return a shard's cells.

    Args:
        nominal: the cells that the settings tell without a look at the models, by which the
            matrix is cut. A group stands together.
        cells: the cells as they are once the shard's models were looked at: a model's own full
            precision may take the place of another, and its parts be known.
        shard: which shard.

    """
    shares = _shares(nominal, shard)
    chosen: list[Cell] = []
    for key, group in groupby(cells, key=_group):
        if key in shares:
            start, stop, size = shares[key]
            found = tuple(group)
            chosen += found[start * len(found) // size : stop * len(found) // size]
    return tuple(chosen)
