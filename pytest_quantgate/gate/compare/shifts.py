"""How far perplexity moved between records of one cell, and which half of an engine moved it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_quantgate import stats
from pytest_quantgate.results.record import CellRecord


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A paired relative change of perplexity (0.01 is +1 %) with its interval of 95 %.

    ``low`` and ``high`` are infinite for fewer than two clusters; ``of_documents`` says that the
    clusters are the text's documents. ``chunks_changed`` are those whose sums differ in any bit.
    """

    change: float
    low: float
    high: float
    chunks: int
    chunks_changed: int
    clusters: int
    of_documents: bool
    tokens: int

    @property
    def is_identical(self) -> bool:
        """Whether every sum is bit-equal."""
        return self.chunks_changed == 0


@dataclass(frozen=True, kw_only=True)
class Effects:
    """The two-by-two of quantizer and runtime, each against both old.

    ``quantizer`` is the new engine's file on the old runtime, ``runtime`` the old file on the
    new one, ``together`` both new; ``left_over`` is what the first two do not add up to. None is
    what was not measured. ``is_same_file`` says that both quantizers made the same bytes: all of
    it is the runtime.
    """

    is_same_file: bool
    quantizer: Shift | None
    runtime: Shift | None
    together: Shift | None
    left_over: Shift | None

    @property
    def cause(self) -> str | None:
        """The half that moved the values, None where that was not measured or nothing moved."""
        if self.is_same_file or self.quantizer is None or self.runtime is None:
            return None
        halves = {"quantizer": self.quantizer, "runtime kernels": self.runtime}
        return " and ".join(n for n, shift in halves.items() if not shift.is_identical) or None


def find_divergences(old: CellRecord, new: CellRecord) -> tuple[float, float] | None:
    """Return both mean divergences in nats on the common chunks; None where one has none."""
    if not old.chunk_kld_sum_nats or not new.chunk_kld_sum_nats:
        return None
    before, after = (
        dict(
            zip(
                record.chunk_indices,
                zip(record.chunk_kld_sum_nats, record.chunk_tokens, strict=True),
                strict=True,
            )
        )
        for record in (old, new)
    )
    common = [index for index in after if index in before]
    if not common:
        return None
    then, now = (
        math.fsum(table[index][0] for index in common) / sum(table[index][1] for index in common)
        for table in (before, after)
    )
    return then, now


def is_same_file(one: CellRecord, other: CellRecord) -> bool:
    """Tell whether two cells computed with the same file, to the byte of every tensor."""
    if one.file_sha256 is not None and one.file_sha256 == other.file_sha256:
        return True
    known = one.tensor_data_sha256
    return (
        known is not None and known == other.tensor_data_sha256 and one.metadata == other.metadata
    )


def find_shift(old: CellRecord, new: CellRecord) -> Shift | None:
    """Compare two records' perplexities on their common chunks, None where there are none.

    Chunks whose token ids differ are left out: they are of other tokens.
    """
    return _estimate((old, new), lambda before, after: (before, after))


def find_effects(
    old: CellRecord,
    new: CellRecord,
    *,
    new_file_on_old: CellRecord | None,
    old_file_on_new: CellRecord | None,
) -> Effects | None:
    """Return the two-by-two, None where a corner that is needed was not measured."""
    together = find_shift(old, new)
    if together is None:
        return None
    if is_same_file(old, new):
        return Effects(
            is_same_file=True,
            quantizer=None,
            runtime=together,
            together=together,
            left_over=None,
        )
    on_old, on_new = new_file_on_old, old_file_on_new
    if on_old is None and on_new is None:
        return None
    left_over = None
    if on_old is not None and on_new is not None:
        left_over = _estimate(
            (old, on_old, on_new, new),
            lambda both_old, quantizer, runtime, both: (quantizer + runtime, both + both_old),
        )
    return Effects(
        is_same_file=False,
        quantizer=None if on_old is None else find_shift(old, on_old),
        runtime=None if on_new is None else find_shift(old, on_new),
        together=together,
        left_over=left_over,
    )


def _estimate(
    records: Sequence[CellRecord], sides: Callable[..., tuple[float, float]]
) -> Shift | None:
    """Estimate the paired difference of what ``sides`` makes of the records' sums of a chunk."""
    tables = [
        {
            index: (token_ids, nats)
            for index, token_ids, nats in zip(
                record.chunk_indices,
                record.chunk_token_ids,
                record.chunk_nll_sum_nats,
                strict=True,
            )
        }
        for record in records
    ]
    last = records[-1]
    rows = []
    for index, tokens, document in zip(
        last.chunk_indices, last.chunk_tokens, last.chunk_documents, strict=True
    ):
        found = [table[index] for table in tables if index in table]
        if len(found) == len(tables) and len({token_ids for token_ids, _ in found}) == 1:
            rows.append((*sides(*(nats for _, nats in found)), tokens, document, index))
    if not rows:
        return None
    before, after, tokens_of, documents, places = zip(*rows, strict=True)
    estimate = stats.compare_paired(before, after, tokens_of, documents, places)
    low, high = stats.ppl_ratio_interval(estimate)
    return Shift(
        change=stats.ppl_change(estimate.mean),
        low=low,
        high=high,
        chunks=estimate.chunks,
        chunks_changed=estimate.chunks_differing,
        clusters=estimate.clusters,
        of_documents=all(document is not None for document in documents),
        tokens=estimate.tokens,
    )
