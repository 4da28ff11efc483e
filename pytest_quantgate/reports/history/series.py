"""Series of a cell's figures over its versions, and the changes of their levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from statistics import fmean, median

from pytest_quantgate import stats
from pytest_quantgate.gate.cause import fields_changed, runtime_changes
from pytest_quantgate.gguf.tensor_changes import compare_tensors
from pytest_quantgate.reports.chunks import kld_change
from pytest_quantgate.reports.history.cell_versions import CellVersion, Name, Version
from pytest_quantgate.reports.history.figures import KLD, PPL, SAME_TOP
from pytest_quantgate.reports.words import change, nats_change
from pytest_quantgate.results.chunk_table import ChunkTable
from pytest_quantgate.stats.change_points import FLOOR_WIDTHS, change_points


@dataclass(frozen=True, kw_only=True)
class Point:
    """A figure in one version; ``samples`` are its fresh processes, if it has any."""

    at: CellVersion
    value: float
    samples: tuple[float, ...] = ()


class Direction(Enum):
    """Which way a level changed; the value is what a reader reads."""

    WORSE = "worse"
    BETTER = "better"
    UNCLEAR = "the direction may be chance"


@dataclass(frozen=True, kw_only=True)
class _Move:
    """How far a level moved, as text and with the bounds of its interval, NaN where none is."""

    text: str
    low: float = math.nan
    high: float = math.nan

    def direction(self, *, is_worse: bool) -> Direction:
        """Return which way it is, from which way the levels are."""
        if self.low < 0 < self.high:
            return Direction.UNCLEAR
        return Direction.WORSE if is_worse else Direction.BETTER


@dataclass(frozen=True, kw_only=True)
class Change:
    """A new level from ``place`` on: what a cell's figure was, is, and why.

    ``difference`` has the interval of 95 % where one can be worked out; if zero lies in it, the
    change has no ``direction``.
    """

    place: int
    before: float
    after: float
    difference: str
    direction: Direction
    at: CellVersion
    previous: CellVersion
    why: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Series:
    """A figure of a cell, oldest first; ``chunks`` are those that all its points are of."""

    cell: str
    name: Name
    points: tuple[Point, ...]
    changes: tuple[Change, ...]
    chunks: int = 0

    @property
    def values(self) -> tuple[float, ...]:
        """The values."""
        return tuple(point.value for point in self.points)

    @property
    def is_worse(self) -> bool:
        """Whether a change was for the worse."""
        return any(change.direction is Direction.WORSE for change in self.changes)

    @property
    def floor(self) -> float:
        """A scatter that means nothing, in the figure's unit."""
        return self.name.figure.floor_at(median(self.values))


@dataclass(frozen=True, kw_only=True)
class History:
    """All series of some versions; ``source`` says what these are, in words.

    With ``is_cumulative``, what a version does not name stays as it was: a commit stores what it
    changes, a run measures all anew.
    """

    source: str
    is_cumulative: bool
    versions: tuple[Version, ...]
    series: tuple[Series, ...]
    warnings: tuple[str, ...] = ()

    @property
    def changed(self) -> tuple[Series, ...]:
        """The series with a change."""
        return tuple(item for item in self.series if item.changes)

    @property
    def n_cells(self) -> int:
        """How many cells there are."""
        return len({item.cell for item in self.series})


Finder = Callable[[Name, Sequence[float], float], Sequence[int]]
"""Returns where a new level begins, of a series' name, values and floor."""


def measured_changes(name: Name, values: Sequence[float], floor: float) -> Sequence[int]:
    """Return where the level of measured values changes, beyond their scatter."""
    return change_points(values, floor=floor, persistence=name.figure.persistence)


def accepted_changes(name: Name, values: Sequence[float], floor: float) -> Sequence[int]:
    """Return where accepted values changed: a deterministic one at once, a speed beyond scatter."""
    if name.figure.persistence > 1:
        return measured_changes(name, values, floor)
    pairs = pairwise(values)
    return [
        place
        for place, (before, after) in enumerate(pairs, start=1)
        if abs(after - before) > FLOOR_WIDTHS * floor
    ]


def make_series(cells: Sequence[CellVersion], find: Finder) -> tuple[Series, ...]:
    """Return the series of all cells, whose versions are given oldest first."""
    groups: dict[tuple[object, ...], list[CellVersion]] = {}
    for cell in cells:
        groups.setdefault((cell.cell, *cell.conditions), []).append(cell)
    return tuple(item for group in groups.values() for item in _of_cell(group, find))


def _of_cell(versions: Sequence[CellVersion], find: Finder) -> Iterator[Series]:
    scored = [version for version in versions if version.ppl is not None]
    common = set.intersection(*(set(item.chunks.index) for item in scored)) if scored else set()
    tables = [(item, item.chunks.of_chunks(common)) for item in scored]
    n_chunks = len(common)
    for name, read in _OF_CHUNKS:
        points = [
            Point(at=item, value=value)
            for item, rows in tables
            if (value := read(item, rows, is_whole=len(item.chunks) == n_chunks)) is not None
        ]
        yield from _series(name, points, find, n_chunks)
    for name in dict.fromkeys(name for version in versions for name in version.readings):
        readings = ((item, item.readings[name]) for item in versions if name in item.readings)
        points = [Point(at=at, value=r.value, samples=r.samples) for at, r in readings]
        yield from _series(name, points, find, 0)


def _ppl(cell: CellVersion, rows: ChunkTable, *, is_whole: bool) -> float | None:
    if is_whole:
        return cell.ppl
    return rows.perplexity if len(rows) else None


def _kld(cell: CellVersion, rows: ChunkTable, *, is_whole: bool) -> float | None:
    if is_whole or cell.mean_kld_nats is None:
        return cell.mean_kld_nats
    return math.fsum(rows.kld_sums) / rows.n_tokens if rows.kld_sums else None


def _same_top(cell: CellVersion, rows: ChunkTable, *, is_whole: bool) -> float | None:
    if is_whole or cell.same_top is None:
        return cell.same_top
    return sum(rows.same_tops) / rows.n_tokens if rows.same_tops else None


_OF_CHUNKS = (
    (Name(figure=PPL, title="PPL"), _ppl),
    (Name(figure=KLD, title="mean KLD"), _kld),
    (Name(figure=SAME_TOP, title="same top"), _same_top),
)


def _series(name: Name, points: Sequence[Point], find: Finder, n_chunks: int) -> Iterator[Series]:
    kept = [point for point in points if math.isfinite(point.value)]
    if not kept:
        return
    values = [point.value for point in kept]
    places = find(name, values, name.figure.floor_at(median(values)))
    yield Series(
        cell=kept[0].at.cell,
        name=name,
        points=tuple(kept),
        changes=tuple(_changes(name, kept, places)),
        chunks=n_chunks,
    )


def _changes(name: Name, points: Sequence[Point], places: Sequence[int]) -> Iterator[Change]:
    ends = [0, *places, len(points)]
    for first, place, last in zip(ends, ends[1:], ends[2:], strict=False):
        before, after = points[first:place], points[place:last]
        was, becomes = (fmean(point.value for point in side) for side in (before, after))
        old, new = points[place - 1], points[place]
        move = _move(name, before, after, (was, becomes))
        yield Change(
            place=place,
            before=was,
            after=becomes,
            difference=move.text,
            direction=move.direction(is_worse=name.figure.is_worse(was, becomes)),
            at=new.at,
            previous=old.at,
            why=(*new.at.said, explain(old.at, new.at)),
        )


def _move(
    name: Name,
    before: Sequence[Point],
    after: Sequence[Point],
    levels: tuple[float, float],
) -> _Move:
    """Return how far the level moved: paired on chunks where there are any, with the interval."""
    pair = after[0].at.chunks.paired(before[-1].at.chunks)
    if name.figure is PPL and (shift := pair.shift()) is not None:
        moved = shift.change, shift.low, shift.high
        return _Move(text=change(*moved), low=shift.low, high=shift.high)
    if name.figure is KLD and (moved_nats := kld_change(pair)) is not None:
        return _Move(text=nats_change(*moved_nats), low=moved_nats[1], high=moved_nats[2])
    sides = [_samples(side) for side in (before, after)]
    if name.figure.persistence > 1 and min(map(len, sides)) > 1:
        slowdown = stats.slowdown_unpaired(*sides)
        low, high = stats.interval(slowdown)
        ratio = [stats.ppl_change(-value) for value in (slowdown.mean, high, low)]
        return _Move(text=change(*ratio), low=ratio[1], high=ratio[2])
    return _Move(text=name.figure.change(*levels))


def _samples(points: Sequence[Point]) -> tuple[float, ...]:
    """Return a value a version or, where there is one version alone, a value a process."""
    return points[0].samples if len(points) == 1 else tuple(point.value for point in points)


def explain(before: CellVersion, after: CellVersion) -> str:
    """Return what is not as it was between two versions of a cell, in the order of the data."""
    causes = []
    if before.source_sha256 != after.source_sha256:
        causes.append("the source model is another file")
    retokenized = after.chunks.paired(before.chunks).retokenized
    if retokenized:
        causes.append(f"tokenizer: {retokenized} chunks have other token ids")
    tensors = compare_tensors(before.tensors, after.tensors)
    if tensors.any:
        causes.append(tensors.describe())
    causes += fields_changed(before.metadata, after.metadata or {})
    if before.made_by is not None and after.made_by is not None:
        if before.made_by.imatrix_sha256 != after.made_by.imatrix_sha256:
            causes.append("the importance matrix is another one")
        causes += runtime_changes(before.made_by, after.made_by)
    if not causes:
        return "cause: the machine's state: file, libraries, processor and batch are the same"
    return f"cause: {'; '.join(causes)}"
