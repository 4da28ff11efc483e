"""Perplexity: what llama-perplexity reports, kept chunk by chunk and token by token."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pytest_quantgate.engines.messages import DivergenceSummary, Message, ScoredChunk, SummedChunk
from pytest_quantgate.results.measurements.routes import Routes, join_routes, read_routes

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class ChunkScore:
    """One chunk: its place in the text, and what was scored there.

    ``nll_sum_nats`` is the float64 sum over ``tokens`` scored tokens; the hashes are SHA-256 of
    the decoded int32 ids and of the int32 top tokens, None from an engine that tells sums alone.
    ``document`` and ``domain`` are where most of the scored bytes lie, None where the text
    declares none.
    ``kld_sum_nats`` is the float64 sum of the divergence from the reference, None where there
    was none to compare with. ``same_top`` counts the tokens with the reference's top token where
    the engine told that number instead of the tokens.
    """

    index: int
    tokens: int
    nll_sum_nats: float
    token_ids_sha256: str
    top_tokens_sha256: str | None
    document: int | None
    domain: str | None
    kld_sum_nats: float | None = None
    same_top: int | None = None

    @property
    def is_exact(self) -> bool:
        """Whether the sums have every bit, or come from rounded figures that were printed."""
        return self.top_tokens_sha256 is not None


@dataclass(frozen=True, kw_only=True)
class PerplexityMeasurement:
    """The chunks of a cell in the order in which they were visited.

    ``nll_nats`` (float32) and ``top_tokens`` (int32) have shape (chunks, tokens a chunk) and
    the same order; so have ``top_probabilities`` (float32, that of the top token) and
    ``kld_nats`` (float32, the divergence from the reference), None where they were not measured:
    an engine of programs tells none of them, but a ``summary`` of all the chunks it scored.
    ``seconds_s`` is decoding time, model loading left out. ``routes`` are of the first chunks of
    a model with experts.
    """

    chunks: tuple[ChunkScore, ...]
    nll_nats: FloatArray | None
    top_tokens: IntArray | None
    n_chunks_in_text: int
    seconds_s: float
    top_probabilities: FloatArray | None = None
    kld_nats: FloatArray | None = None
    summary: DivergenceSummary | None = None
    routes: Routes | None = None

    @property
    def n_tokens(self) -> int:
        """Scored tokens in all chunks."""
        return sum(chunk.tokens for chunk in self.chunks)

    @property
    def nll_per_token_nats(self) -> float:
        """Mean negative log-likelihood of a scored token."""
        return math.fsum(chunk.nll_sum_nats for chunk in self.chunks) / self.n_tokens

    @property
    def perplexity(self) -> float:
        """Exp of the mean negative log-likelihood; infinite where that overflows."""
        nats = self.nll_per_token_nats
        return math.exp(nats) if nats < 700 else math.inf if nats == nats else math.nan

    @property
    def is_finite(self) -> bool:
        """Whether every chunk's sum is a number."""
        return all(math.isfinite(chunk.nll_sum_nats) for chunk in self.chunks)

    def first(self, count: int) -> PerplexityMeasurement:
        """Return the first chunks in visiting order; a summary stays that of all."""
        return replace(
            self,
            chunks=self.chunks[:count],
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
        self.chunks: list[ChunkScore] = list(known.chunks) if known else []
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

    def _take_summed(self, reply: SummedChunk) -> None:
        self.chunks.append(
            ChunkScore(
                index=reply.index,
                tokens=reply.tokens,
                nll_sum_nats=reply.nll_sum_nats,
                token_ids_sha256=reply.token_ids_sha256,
                top_tokens_sha256=None,
                document=self._documents[reply.index],
                domain=self._domains[reply.index],
                kld_sum_nats=reply.kld_sum_nats,
                same_top=reply.same_top,
            )
        )
        self._seconds_s += reply.seconds_s

    def _take_scored(self, reply: ScoredChunk) -> None:
        nll = np.frombuffer(reply.nll_nats, dtype=np.float32)
        self.chunks.append(
            ChunkScore(
                index=reply.index,
                tokens=len(nll),
                nll_sum_nats=reply.nll_sum_nats,
                token_ids_sha256=reply.token_ids_sha256,
                top_tokens_sha256=hashlib.sha256(reply.top_tokens).hexdigest(),
                document=self._documents[reply.index],
                domain=self._domains[reply.index],
                kld_sum_nats=reply.kld_sum_nats if reply.kld_nats else None,
            )
        )
        self._nll.append(nll)
        self._top.append(np.frombuffer(reply.top_tokens, dtype=np.int32))
        self._top_p.append(np.frombuffer(reply.top_probabilities, dtype=np.float32))
        self._kld.append(np.frombuffer(reply.kld_nats, dtype=np.float32))
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
            chunks=tuple(self.chunks),
            nll_nats=np.stack(self._nll) if complete else None,
            top_tokens=np.stack(self._top) if complete else None,
            n_chunks_in_text=n_chunks_in_text,
            seconds_s=self._seconds_s,
            top_probabilities=_stack(self._top_p, self._nll),
            kld_nats=_stack(self._kld, self._nll),
            summary=self._summary,
            routes=self._routes,
        )


def _rows(array: FloatArray | None) -> list[FloatArray]:
    return [] if array is None else list(array)


def _stack(rows: list[FloatArray], like: list[FloatArray]) -> FloatArray | None:
    """Stack rows if every chunk has them."""
    complete = [len(row) for row in rows] == [len(row) for row in like]
    return np.stack(rows) if complete and rows else None


def common_chunks(
    a: PerplexityMeasurement, b: PerplexityMeasurement
) -> tuple[list[int], list[int]]:
    """Return the positions in ``a`` and in ``b`` of the chunks that both have, in a's order."""
    where = {chunk.index: position for position, chunk in enumerate(b.chunks)}
    pairs = [
        (position, where[chunk.index])
        for position, chunk in enumerate(a.chunks)
        if chunk.index in where
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
