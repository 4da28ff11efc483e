"""Cuts a matrix into shards, one for each of several jobs.

Each job finds its own shard by itself, so that it neither asks the others nor downloads a model of
which it has no cell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_quantgate.matrix.cells import Cell


@dataclass(frozen=True, kw_only=True)
class Group:
    """The cells of a model, text and device, which share a measurement of the reference.

    ``costs_ms`` is what each cell takes; ``reference_ms`` what a shard pays for the reference that
    has cells of the group and not the cell at ``reference``, None where no shard has it.
    """

    costs_ms: tuple[int, ...]
    reference: int | None
    reference_ms: int


@dataclass(frozen=True, kw_only=True)
class _Place:
    """One cell in the row that is cut."""

    cost_ms: int
    group: int
    is_reference: bool


class _Filling:
    """What a shard takes, as cells are added to it."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        self._group = -1
        self._pays_reference = False
        self.cost_ms = 0

    def after(self, cell: _Place) -> int:
        """Return the cost with one cell more."""
        is_new = cell.group != self._group
        reference_ms = self._groups[cell.group].reference_ms
        extra = reference_ms if is_new and not cell.is_reference else 0
        paid = reference_ms if cell.is_reference and not is_new and self._pays_reference else 0
        return self.cost_ms + max(0, cell.cost_ms - paid) + extra

    def add(self, cell: _Place) -> None:
        """Add one cell more."""
        self.cost_ms = self.after(cell)
        if cell.group != self._group:
            self._group, self._pays_reference = cell.group, not cell.is_reference
        elif cell.is_reference:
            self._pays_reference = False


def cut(groups: Sequence[Group], count: int) -> tuple[int, ...]:
    """Return the ``count`` + 1 places at which a row of groups is cut into shards.

    The cells of all groups stand in one row; shard k is what lies between places k − 1 and k. The
    cuts make the longest shard as short as can be. A shard measures the reference of each group
    of which it has cells, so a group is split only where that pays. No shard is without a cell
    where there are as many cells as shards.
    """
    row = [
        _Place(cost_ms=cost, group=number, is_reference=place == group.reference)
        for number, group in enumerate(groups)
        for place, cost in enumerate(group.costs_ms)
    ]
    least, most = 0, sum(cell.cost_ms + groups[cell.group].reference_ms for cell in row)
    while least < most:
        limit_ms = (least + most) // 2
        if len(_ends(groups, row, limit_ms)) <= count:
            most = limit_ms
        else:
            least = limit_ms + 1
    ends = _ends(groups, row, least, count)
    return (0, *ends, *[len(row)] * (count - len(ends)))


def _ends(
    groups: Sequence[Group], row: Sequence[_Place], limit_ms: int, count: int | None = None
) -> list[int]:
    """Return where shards end that take what they can up to a cost, and one cell at least.

    With a ``count`` there are no more shards than that, and a cell is left for each that follows.
    """
    ends: list[int] = []
    begin, shard = 0, _Filling(groups)
    for number, cell in enumerate(row):
        is_full = shard.after(cell) > limit_ms
        if count is not None:
            following = count - len(ends) - 1
            is_full = (is_full and following > 0) or len(row) - number <= following
        if number > begin and is_full:
            ends.append(number)
            begin, shard = number, _Filling(groups)
        shard.add(cell)
    return [*ends, len(row)] if row else ends


GroupKey = tuple[str, str, int, str]


def group_key(cell: Cell) -> GroupKey:
    """Return what cells share that share a reference: model, chunks of a text, and device."""
    return cell.model, cell.text, cell.n_ctx, cell.device


@dataclass(frozen=True, kw_only=True)
class _Share:
    """What a shard has of a group: the cells from ``start`` to ``stop`` of ``size``."""

    start: int
    stop: int
    size: int


class Shards:
    """A matrix cut into shards.

    Args:
        nominal: the cells that the settings tell without a look at the models, by which the
            matrix is cut. A group stands together.
        groups: what each group of them takes, in their order.
        count: how many shards.

    """

    def __init__(self, nominal: Sequence[Cell], groups: Sequence[Group], count: int) -> None:
        self._nominal = nominal
        self._groups = groups
        self._places = cut(groups, count)

    @cached_property
    def sha256(self) -> str:
        """What two jobs must have in common that cut one matrix: its cells, and their costs."""
        costs = (cost for group in self._groups for cost in group.costs_ms)
        lines = (f"{cell.id} {cost}" for cell, cost in zip(self._nominal, costs, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _shares(self, number: int) -> Iterator[tuple[GroupKey, _Share]]:
        first, last = self._places[number - 1], self._places[number]
        begin = 0
        for key, cells in groupby(self._nominal, key=group_key):
            size = len(list(cells))
            start, stop = max(first - begin, 0), min(last - begin, size)
            if start < stop:
                yield key, _Share(start=start, stop=stop, size=size)
            begin += size

    def models(self, number: int) -> frozenset[str]:
        """Return the models of which a shard has cells."""
        return frozenset(model for (model, *_), _ in self._shares(number))

    def cells(self, number: int, cells: Iterable[Cell]) -> tuple[Cell, ...]:
        """Return a shard's cells.

        ``cells`` are as they are once the shard's models were looked at: a model's own full
        precision may take the place of another, and its tensor groups be known.
        """
        shares = dict(self._shares(number))
        chosen: list[Cell] = []
        for key, members in groupby(cells, key=group_key):
            if key in shares:
                share, group = shares[key], tuple(members)
                start = share.start * len(group) // share.size
                chosen += group[start : share.stop * len(group) // share.size]
        return tuple(chosen)
