"""What was scored of a text, chunk by chunk: held by measurement, baseline and record alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from pytest_quantgate import stats

ValueT = TypeVar("ValueT")

HASH_DIGITS = 16
"""Hexadecimal digits that are kept of a SHA-256."""


@dataclass(frozen=True, kw_only=True)
class ChunkTable:
    """Columns of equal length, a row a chunk, in the order in which the chunks were visited.

    A column that may be None and is left out is None in every row.

    Attributes:
        index: the chunk's place in the text.
        tokens: scored tokens.
        nll_sum_nats: float64 sum of the scored tokens' negative log-likelihoods.
        token_ids: the first digits of the SHA-256 of the int32 token ids.
        top_tokens: likewise of the int32 top tokens; None from an engine that prints rounded sums
            alone.
        document: the document in which most of the scored bytes lie; None where the text has none.
        domain: likewise its domain.
        kld_sum_nats: float64 sum of the divergence from the reference; None where none was
            measured.
        same_top: tokens with the reference's top token; None where that is not known.

    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 # where pydantic looks for it

    index: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    nll_sum_nats: tuple[float, ...] = ()
    token_ids: tuple[str, ...] = ()
    top_tokens: tuple[str | None, ...] = ()
    document: tuple[int | None, ...] = ()
    domain: tuple[str | None, ...] = ()
    kld_sum_nats: tuple[float | None, ...] = ()
    same_top: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        for name in _OPTIONAL:
            if not getattr(self, name):
                object.__setattr__(self, name, (None,) * len(self.index))
        lengths = {len(getattr(self, name)) for name in COLUMNS}
        if len(lengths) != 1:
            raise ValueError("the chunks' columns are of unequal length")
        if any(tokens < 1 for tokens in self.tokens):
            raise ValueError("a chunk has no tokens")

    def __len__(self) -> int:
        return len(self.index)

    @property
    def n_tokens(self) -> int:
        """Scored tokens of all chunks."""
        return sum(self.tokens)

    @property
    def nll_per_token_nats(self) -> float:
        """Mean negative log-likelihood of a scored token."""
        return math.fsum(self.nll_sum_nats) / self.n_tokens

    @property
    def perplexity(self) -> float:
        """Exp of the mean negative log-likelihood; infinite where that overflows."""
        nats = self.nll_per_token_nats
        return math.exp(nats) if nats < 700 else math.inf if nats == nats else math.nan

    @property
    def is_finite(self) -> bool:
        """Whether every chunk's sum is a number."""
        return all(map(math.isfinite, self.nll_sum_nats))

    @property
    def is_exact(self) -> bool:
        """Whether the sums have every bit, and were not rounded for printing."""
        return all(value is not None for value in self.top_tokens)

    @property
    def kld_sums(self) -> tuple[float, ...] | None:
        """The divergence's sums; None where a chunk has none."""
        return _complete(self.kld_sum_nats)

    @property
    def same_tops(self) -> tuple[int, ...] | None:
        """The numbers of equal top tokens; None where a chunk has none."""
        return _complete(self.same_top)

    def take(self, positions: Iterable[int]) -> ChunkTable:
        """Return the rows at these positions, in this order."""
        rows = tuple(positions)
        return ChunkTable(
            **{name: tuple(getattr(self, name)[row] for row in rows) for name in COLUMNS}
        )

    def first(self, count: int) -> ChunkTable:
        """Return the first rows."""
        return self.take(range(min(count, len(self))))

    def of_chunks(self, indices: Iterable[int]) -> ChunkTable:
        """Return the rows of these chunks, in the table's order."""
        wanted = set(indices)
        return self.take(row for row, index in enumerate(self.index) if index in wanted)

    def by_domain(self) -> dict[str, ChunkTable]:
        """Return the rows of each domain, in the order in which the domains first appear."""
        names = dict.fromkeys(name for name in self.domain if name is not None)
        return {
            name: self.take(row for row, domain in enumerate(self.domain) if domain == name)
            for name in names
        }

    def append(self, **row: Any) -> ChunkTable:
        """Return the table with one more row; a column that is left out gets None."""
        return ChunkTable(**{name: (*getattr(self, name), row.get(name)) for name in COLUMNS})

    def replace(self, **columns: Sequence[Any]) -> ChunkTable:
        """Return the table with other columns."""
        return ChunkTable(
            **{name: tuple(columns.get(name, getattr(self, name))) for name in COLUMNS}
        )

    def difference(self, before: Sequence[float], after: Sequence[float]) -> stats.PairedEstimate:
        """Estimate the mean difference a token of two columns of sums on these chunks."""
        return stats.compare_paired(before, after, self.tokens, self.document, self.index)

    def excess(self, values: Sequence[float]) -> stats.PairedEstimate:
        """Estimate the mean a token of a column of sums, as its difference from nothing."""
        return self.difference([0.0] * len(self), values)

    def mean(self, values: Sequence[float]) -> stats.MeanEstimate:
        """Estimate the mean a token of a column of sums."""
        return stats.estimate_mean(values, self.tokens, self.document, self.index)

    def paired(self, before: ChunkTable) -> ChunkPair:
        """Return the chunks that both tables have, in this table's order."""
        rows = {index: row for row, index in enumerate(before.index)}
        common = [row for row, index in enumerate(self.index) if index in rows]
        return ChunkPair(
            before=before.take(rows[self.index[row]] for row in common), after=self.take(common)
        )


COLUMNS = tuple(field.name for field in fields(ChunkTable))
_OPTIONAL = ("top_tokens", "document", "domain", "kld_sum_nats", "same_top")


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A paired relative change of perplexity (0.01 is +1 %) with its interval of 95 %.

    ``low`` and ``high`` are infinite for fewer than two clusters; ``of_documents`` says that the
    clusters are the text's documents. ``chunks_changed`` are those whose sums differ in any bit,
    ``tokens_changed`` the tokens that do, None where the values of single tokens are not there.
    """

    change: float
    low: float
    high: float
    chunks: int
    chunks_changed: int
    clusters: int
    of_documents: bool
    tokens: int
    tokens_changed: int | None = None

    @property
    def is_identical(self) -> bool:
        """Whether every sum is bit-equal."""
        return self.chunks_changed == 0


@dataclass(frozen=True, kw_only=True)
class ChunkPair:
    """The common chunks of two tables, row by row."""

    before: ChunkTable
    after: ChunkTable

    def __len__(self) -> int:
        return len(self.after)

    @property
    def retokenized(self) -> int:
        """How many chunks have other token ids: there the text was cut into other tokens."""
        return sum(
            before != after
            for before, after in zip(self.before.token_ids, self.after.token_ids, strict=True)
        )

    def of_equal_tokens(self) -> ChunkPair:
        """Return the chunks with equal token ids."""
        pairs = zip(self.before.token_ids, self.after.token_ids, strict=True)
        rows = [row for row, (before, after) in enumerate(pairs) if before == after]
        return ChunkPair(before=self.before.take(rows), after=self.after.take(rows))

    def with_divergence(self) -> ChunkPair:
        """Return the chunks whose divergence is known on both sides."""
        pairs = zip(self.before.kld_sum_nats, self.after.kld_sum_nats, strict=True)
        rows = [row for row, pair in enumerate(pairs) if None not in pair]
        return ChunkPair(before=self.before.take(rows), after=self.after.take(rows))

    def nll(self) -> stats.PairedEstimate:
        """Estimate ln(PPL after / PPL before)."""
        return self.after.difference(self.before.nll_sum_nats, self.after.nll_sum_nats)

    def shift(self, tokens_changed: int | None = None) -> Shift | None:
        """Return the change of perplexity; None without a common chunk."""
        if not len(self):
            return None
        return shift_of(self.after, self.nll(), tokens_changed)


def shift_of(
    chunks: ChunkTable, estimate: stats.PairedEstimate, tokens_changed: int | None = None
) -> Shift:
    """Return a difference in nats a token as a relative change of perplexity."""
    low, high = stats.ppl_ratio_interval(estimate)
    return Shift(
        change=stats.ppl_change(estimate.mean),
        low=low,
        high=high,
        chunks=estimate.chunks,
        chunks_changed=estimate.chunks_differing,
        clusters=estimate.clusters,
        of_documents=all(document is not None for document in chunks.document),
        tokens=estimate.tokens,
        tokens_changed=tokens_changed,
    )


def combined_shift(
    tables: Sequence[ChunkTable], sides: Callable[..., tuple[float, float]]
) -> Shift | None:
    """Return the shift between what ``sides`` makes of the tables' sums of a chunk.

    Only chunks that all tables have with equal token ids count; None where there are none.
    """
    common = tables[-1]
    for table in tables[:-1]:
        common = common.paired(table).of_equal_tokens().after
    if not len(common):
        return None
    columns = [common.paired(table).before.nll_sum_nats for table in tables]
    before, after = zip(*(sides(*row) for row in zip(*columns, strict=True)), strict=True)
    return shift_of(common, common.difference(before, after))


def _complete(column: tuple[ValueT | None, ...]) -> tuple[ValueT, ...] | None:
    values = tuple(value for value in column if value is not None)
    return values if len(values) == len(column) else None
