"""Perplexity: what llama-perplexity reports, kept chunk by chunk and token by token."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_quantgate.engines.messages import DivergenceSummary, Message, ScoredChunk, SummedChunk
from pytest_quantgate.errors import CellCrashed
from pytest_quantgate.results.chunk_table import HASH_DIGITS, ChunkTable
from pytest_quantgate.results.measurements.routes import Routes, join_routes, read_routes
from pytest_quantgate.storage.arrays import array_of

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class PerplexityMeasurement:
    """The chunks of a cell in the order in which they were visited.

    ``nll_nats`` (float32) and ``top_tokens`` (int32) have shape (chunks, tokens a chunk) and
    the same order; so have ``top_probabilities`` (float32, that of the top token) and
    ``kld_nats`` (float32, the divergence from the reference), None where they were not measured:
    an engine of programs tells none of them, but a ``summary`` of all the chunks it scored.
    ``seconds_s`` is decoding time, model loading left out. ``routes`` are of the first chunks of
    a model with experts. ``measured_s`` is when the last chunk came, in seconds since the epoch.
    """

    chunks: ChunkTable
    nll_nats: FloatArray | None
    top_tokens: IntArray | None
    n_chunks_in_text: int
    seconds_s: float
    top_probabilities: FloatArray | None = None
    kld_nats: FloatArray | None = None
    summary: DivergenceSummary | None = None
    routes: Routes | None = None
    measured_s: float = 0.0

    @property
    def perplexity(self) -> float:
        """Exp of the mean negative log-likelihood of a scored token."""
        return self.chunks.perplexity

    def first(self, count: int) -> PerplexityMeasurement:
        """Return the first chunks in visiting order; a summary stays that of all."""
        return replace(
            self,
            chunks=self.chunks.first(count),
            nll_nats=None if self.nll_nats is None else self.nll_nats[:count],
            top_tokens=None if self.top_tokens is None else self.top_tokens[:count],
            top_probabilities=_first(self.top_probabilities, count),
            kld_nats=_first(self.kld_nats, count),
            routes=None if self.routes is None else self.routes.first(count),
        )


def _first(rows: FloatArray | None, count: int) -> FloatArray | None:
    return None if rows is None else rows[:count]


@dataclass(frozen=True, kw_only=True)
class TokenChanges:
    """How many of the common tokens differ between two measurements, bit for bit."""

    changed: int
    tokens: int
    largest_nats: float
    top_tokens_changed: int


class Gathering:
    """Gathers a worker's replies into a measurement, continuing one that is known.

    Args:
        known: what was measured before, None for a fresh start.
        documents: the document of each chunk, by its place in the text.
        domains: the domain of each chunk, by its place in the text.

    """

    def __init__(
        self,
        known: PerplexityMeasurement | None,
        documents: Sequence[int | None],
        domains: Sequence[str | None],
    ) -> None:
        self._documents = documents
        self._domains = domains
        self.chunks = known.chunks if known else ChunkTable()
        self._nll = _rows(known.nll_nats if known else None)
        top = known.top_tokens if known else None
        self._top: list[IntArray] = [] if top is None else list(top)
        self._top_p = _rows(known.top_probabilities if known else None)
        self._kld = _rows(known.kld_nats if known else None)
        self._seconds_s = known.seconds_s if known else 0.0
        self._summary = known.summary if known else None
        self._routes = known.routes if known else None

    @property
    def tells_tokens(self) -> bool:
        """Whether every chunk came with the values of its tokens."""
        return len(self._nll) == len(self.chunks)

    def take(self, reply: Message) -> bool:
        """Take a reply in; False for one that tells of no chunk."""
        match reply:
            case ScoredChunk():
                self._take_scored(reply)
            case SummedChunk():
                self._take_summed(reply)
            case DivergenceSummary():
                self._summary = reply
                return False
            case _:
                return False
        return True

    def _append(self, index: int, **columns: Any) -> None:
        if not 0 <= index < len(self._documents) or columns["tokens"] < 1:
            raise CellCrashed(
                f"the engine sent chunk {index} of {len(self._documents)} with"
                f" {columns['tokens']} tokens"
            )
        self.chunks = self.chunks.append(
            index=index, document=self._documents[index], domain=self._domains[index], **columns
        )

    def _take_summed(self, reply: SummedChunk) -> None:
        self._append(
            reply.index,
            tokens=reply.tokens,
            nll_sum_nats=reply.nll_sum_nats,
            token_ids=reply.token_ids_sha256[:HASH_DIGITS],
            kld_sum_nats=reply.kld_sum_nats,
            same_top=reply.same_top,
        )
        self._seconds_s += reply.seconds_s

    def _take_scored(self, reply: ScoredChunk) -> None:
        nll = array_of(reply.nll_nats, np.float32, len(self._nll[0]) if self._nll else -1)
        self._append(
            reply.index,
            tokens=len(nll),
            nll_sum_nats=reply.nll_sum_nats,
            token_ids=reply.token_ids_sha256[:HASH_DIGITS],
            top_tokens=hashlib.sha256(reply.top_tokens).hexdigest()[:HASH_DIGITS],
            kld_sum_nats=reply.kld_sum_nats if reply.kld_nats else None,
        )
        kld = _values(reply.kld_nats, len(nll))
        for values, total in ((nll, reply.nll_sum_nats), (kld, reply.kld_sum_nats)):
            if len(values) and not agrees(values, total):
                raise CellCrashed(f"the engine sent {total} as the sum of tokens that have another")
        self._nll.append(nll)
        self._top.append(array_of(reply.top_tokens, np.int32, len(nll)))
        self._top_p.append(_values(reply.top_probabilities, len(nll)))
        self._kld.append(kld)
        self._seconds_s += reply.seconds_s
        self.take_routes(reply)

    def take_routes(self, reply: ScoredChunk) -> None:
        """Take the routes of one chunk in, and nothing else of it."""
        count = len(reply.nll_nats) // 4
        self._routes = join_routes(self._routes, read_routes(reply, count))

    def finish(self, n_chunks_in_text: int) -> PerplexityMeasurement:
        """Return the measurement."""
        complete = self.tells_tokens
        return PerplexityMeasurement(
            chunks=self.chunks,
            nll_nats=np.stack(self._nll) if complete else None,
            top_tokens=np.stack(self._top) if complete else None,
            n_chunks_in_text=n_chunks_in_text,
            seconds_s=self._seconds_s,
            top_probabilities=_stack(self._top_p, self._nll),
            kld_nats=_stack(self._kld, self._nll),
            summary=self._summary,
            routes=self._routes,
            measured_s=time.time(),
        )


def _rows(array: FloatArray | None) -> list[FloatArray]:
    return [] if array is None else list(array)


def agrees(values: FloatArray, sums: float | Sequence[float]) -> bool:
    """Return whether sums are those of rows of values, which are rounded to float32."""
    with np.errstate(all="ignore"):
        totals = values.sum(axis=-1, dtype=np.float64)
        return np.allclose(totals, sums, rtol=1e-5, atol=1e-4, equal_nan=True)


def _values(data: bytes, count: int) -> FloatArray:
    """Return a chunk's values, none where the engine sent none."""
    return array_of(data, np.float32, count if data else 0)


def _stack(rows: list[FloatArray], like: list[FloatArray]) -> FloatArray | None:
    """Stack rows if every chunk has them."""
    complete = [len(row) for row in rows] == [len(row) for row in like]
    return np.stack(rows) if complete and rows else None


def common_chunks(
    a: PerplexityMeasurement, b: PerplexityMeasurement
) -> tuple[list[int], list[int]]:
    """Return the positions in ``a`` and in ``b`` of the chunks that both have, in a's order."""
    where = {index: position for position, index in enumerate(b.chunks.index)}
    pairs = [
        (position, where[index]) for position, index in enumerate(a.chunks.index) if index in where
    ]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def token_changes(a: PerplexityMeasurement, b: PerplexityMeasurement) -> TokenChanges | None:
    """Compare two measurements of the same text token by token, on their common chunks.

    None where one of them has no values of single tokens.
    """
    if a.nll_nats is None or a.top_tokens is None or b.nll_nats is None or b.top_tokens is None:
        return None
    in_a, in_b = common_chunks(a, b)
    left, right = a.nll_nats[in_a], b.nll_nats[in_b]
    differs = left.view(np.int32) != right.view(np.int32)
    with np.errstate(invalid="ignore"):
        sizes = np.abs(left.astype(np.float64) - right.astype(np.float64))
    return TokenChanges(
        changed=int(np.count_nonzero(differs)),
        tokens=int(left.size),
        largest_nats=float(sizes.max()) if sizes.size else 0.0,
        top_tokens_changed=int(np.count_nonzero(a.top_tokens[in_a] != b.top_tokens[in_b])),
    )
