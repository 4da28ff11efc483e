"""One change in many cells: what a kernel does to all that use it, where no cell shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

import numpy as np

from pytest_quantgate import stats
from pytest_quantgate.gate.compare.comparison import Comparison
from pytest_quantgate.results.chunk_table import ChunkPair, ChunkTable
from pytest_quantgate.results.record import RunRecord
from pytest_quantgate.results.verdicts import VerdictKind

_SHOWS_IT_ALONE = frozenset({VerdictKind.REGRESSED, VerdictKind.INVALID})

_ROUNDING_NATS = 1e-5
"""A chunk's change a token that another order of sums explains; a cell of such alone says nothing.

Weighted by how exactly its shift is known it would drown all the others.
"""

_SUMS: MappingProxyType[str, Callable[[ChunkTable], tuple[float, ...] | None]] = MappingProxyType(
    {"perplexity": lambda table: table.nll_sum_nats, "divergence": lambda table: table.kld_sums}
)


class Direction(Enum):
    """Which way cells moved together, if they did beyond chance."""

    LOSS = "loss"
    GAIN = "gain"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class CommonShift:
    """The mean shift of a metric over the cells that moved, in nats a token.

    Attributes:
        metric: ``perplexity`` (then it is of ln PPL) or ``divergence``.
        cells: how many moved and are not red by themselves.
        clusters: the documents of their texts, or blocks of chunks where a text has none.
        of_documents: all clusters are documents.
        mean_nats: weighted by how exactly each cell's shift is known.
        low_nats: the lower end of the interval of 95 %.
        high_nats: its upper end.
        direction: beyond chance at the share of error that REGRESSED has.

    """

    metric: str
    cells: int
    clusters: int
    of_documents: bool
    mean_nats: float
    low_nats: float
    high_nats: float
    direction: Direction


@dataclass(frozen=True, kw_only=True)
class _Moved:
    """A cell's common chunks of equal tokens; cells of one text have documents in common."""

    text_sha256: str
    pair: ChunkPair


def shifts_of_run(record: RunRecord) -> tuple[CommonShift, ...]:
    """Return the shifts that a run's cells have in common, from their stored baselines."""
    return _common_shifts(
        _Moved(text_sha256=cell.text_sha256, pair=cell.chunks.paired(cell.baseline_chunks))
        for cell in record.cells
        if cell.kind not in _SHOWS_IT_ALONE
    )


def shifts_of_comparison(comparison: Comparison) -> tuple[CommonShift, ...]:
    """Return the shifts that cells have in common from an old engine or record to a new one."""
    return _common_shifts(
        _Moved(text_sha256=cell.new.text_sha256, pair=cell.new.chunks.paired(cell.old.chunks))
        for cell in comparison.cells
        if cell.is_compared and cell.verdict.kind not in _SHOWS_IT_ALONE
    )


def _common_shifts(moved: Iterable[_Moved]) -> tuple[CommonShift, ...]:
    """Estimate the shift of each metric where at least two cells moved."""
    cells = [_Moved(text_sha256=m.text_sha256, pair=m.pair.of_equal_tokens()) for m in moved]
    return tuple(_estimates(cells))


def _estimates(cells: Sequence[_Moved]) -> Iterator[CommonShift]:
    for metric, sums_of in _SUMS.items():
        shifts = [shift for cell in cells if (shift := _shift_of(cell, sums_of)) is not None]
        if len(shifts) < 2:
            continue
        estimate = stats.pooled_shift(shifts)
        low, high = stats.interval(estimate)
        yield CommonShift(
            metric=metric,
            cells=len(shifts),
            clusters=estimate.clusters,
            of_documents=all(
                document is not None for cell in cells for document in cell.pair.after.document
            ),
            mean_nats=estimate.mean,
            low_nats=low,
            high_nats=high,
            direction=_direction(estimate),
        )


def _shift_of(
    cell: _Moved, sums_of: Callable[[ChunkTable], tuple[float, ...] | None]
) -> stats.CellShift | None:
    """Return a cell's differences; None where it has none of the metric, or moved by rounding."""
    after = cell.pair.after
    before_sums, after_sums = sums_of(cell.pair.before), sums_of(after)
    if not len(after) or before_sums is None or after_sums is None:
        return None
    differences, tokens = np.subtract(after_sums, before_sums), np.array(after.tokens)
    if np.all(np.abs(differences) < _ROUNDING_NATS * tokens):
        return None
    return stats.CellShift(
        differences=differences,
        tokens=tokens,
        clusters=[
            (cell.text_sha256, document is None, _block(index) if document is None else document)
            for index, document in zip(after.index, after.document, strict=True)
        ],
    )


def _block(index: int) -> int:
    return index // stats.BLOCK_CHUNKS


def _direction(estimate: stats.MeanEstimate) -> Direction:
    if estimate.clusters < stats.MIN_CLUSTERS:
        return Direction.NONE
    if stats.lower_bound(estimate, stats.ALPHA_REGRESSED) > 0:
        return Direction.LOSS
    if stats.upper_bound(estimate, stats.ALPHA_REGRESSED) < 0:
        return Direction.GAIN
    return Direction.NONE
