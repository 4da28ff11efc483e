"""Figures of a cell on some of its chunks, worked out from the record.

All rows of a table, and all figures of a row, are of the same chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from pytest_quantgate import stats
from pytest_quantgate.results.chunk_table import ChunkPair, ChunkTable, Shift
from pytest_quantgate.results.record import CellRecord


def common_chunks(cells: Iterable[CellRecord]) -> set[int]:
    """Return the chunks that every scored cell has: only on these are they compared."""
    sets = [set(cell.chunks.index) for cell in cells if cell.ppl is not None]
    return set.intersection(*sets) if sets else set()


def perplexity_on(cell: CellRecord, chunks: AbstractSet[int]) -> float | None:
    """Return a cell's perplexity on some of its chunks."""
    rows = cell.chunks.of_chunks(chunks)
    return rows.perplexity if len(rows) else None


def kld_on(cell: CellRecord, chunks: AbstractSet[int]) -> float | None:
    """Return a cell's mean divergence from its reference on some of its chunks."""
    if cell.divergence is None:
        return None
    if set(cell.chunks.index) == chunks:
        return cell.divergence.mean_kld_nats
    return _mean_kld(cell.chunks.of_chunks(chunks))


def _mean_kld(rows: ChunkTable) -> float | None:
    sums = rows.kld_sums
    return math.fsum(sums) / rows.n_tokens if sums else None


def kld_interval_on(
    cell: CellRecord, chunks: AbstractSet[int]
) -> tuple[float | None, float, float]:
    """Return a cell's mean divergence on some of its chunks and its interval of 95 %."""
    mean = kld_on(cell, chunks)
    rows = cell.chunks.of_chunks(chunks)
    if mean is None or rows.kld_sums is None or not math.isfinite(mean):
        return mean, math.nan, math.inf
    return mean, *stats.interval(rows.mean(rows.kld_sums))


def same_top_on(cell: CellRecord, chunks: AbstractSet[int]) -> float | None:
    """Return the share of tokens with the reference's top token, None where it is not known."""
    if cell.divergence is None:
        return None
    if set(cell.chunks.index) == chunks:
        return cell.divergence.same_top
    rows = cell.chunks.of_chunks(chunks)
    return sum(rows.same_tops) / rows.n_tokens if rows.same_tops else None


def domains_on(cell: CellRecord, chunks: AbstractSet[int]) -> dict[str, float]:
    """Return a cell's perplexity by domain on some of its chunks."""
    if set(cell.chunks.index) == chunks:
        return cell.ppl_by_domain
    domains = cell.chunks.of_chunks(chunks).by_domain()
    return {name: rows.perplexity for name, rows in domains.items()}


def domain_klds_on(cell: CellRecord, chunks: AbstractSet[int]) -> dict[str, float | None]:
    """Return a cell's mean divergence by domain on some of its chunks."""
    if cell.divergence is not None and set(cell.chunks.index) == chunks:
        return {part.name: part.mean_kld_nats for part in cell.divergence.by_domain}
    domains = cell.chunks.of_chunks(chunks).by_domain()
    return {name: _mean_kld(rows) for name, rows in domains.items()}


def change_on(cell: CellRecord, other: CellRecord, chunks: AbstractSet[int]) -> Shift | None:
    """Return how far a cell's perplexity is from another's on the chunks that both have."""
    if cell.ppl is None or other.ppl is None:
        return None
    return cell.chunks.of_chunks(chunks).paired(other.chunks).shift()


def kld_change(pair: ChunkPair) -> tuple[float, float, float] | None:
    """Return how far the mean divergence moved on common chunks, and its interval of 95 %."""
    before, after = pair.before.kld_sums, pair.after.kld_sums
    if not before or not after:
        return None
    estimate = pair.after.difference(before, after)
    return estimate.mean, *stats.interval(estimate)
