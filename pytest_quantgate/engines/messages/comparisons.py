"""Questions that compare: with an oracle, other batches, the reference's experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pytest_quantgate.engines.messages.base import BatchedRequest, Message, ModelRequest, Request


@dataclass(frozen=True, kw_only=True)
class OracleCompared(Message):
    """What the engine computes for the oracle's chunks.

    ``nll_nats`` is float32 of shape (chunks, n_ctx − 1), one for each next token; ``kld_nats``
    float64 of shape (chunks, stored rows), the divergence from each stored distribution.
    """

    nll_nats: bytes
    kld_nats: bytes


@dataclass(frozen=True, kw_only=True)
class CompareOracle(BatchedRequest[OracleCompared]):
    """Decode an oracle's chunks, and compare with what another implementation computed.

    ``oracle`` is the path of its ``.npz``.
    """

    reply: ClassVar[type[Message]] = OracleCompared

    oracle: str


@dataclass(frozen=True, kw_only=True)
class BatchesCompared(Message):
    """A row a size: ``(n_ubatch, mean KLD, largest KLD, other top tokens)``, in nats."""

    rows: tuple[tuple[int, float, float, int], ...]


@dataclass(frozen=True, kw_only=True)
class CompareBatches(ModelRequest[BatchesCompared]):
    """Decode the first tokens of a chunk in batches of other sizes, and compare with one batch.

    The one batch is decoded on the placement ``against``, "" for the same ``device``.

    ``n_ubatches`` are the physical batch sizes to compare with ``n_tokens`` at once; 0 stands
    for token by token, as in generating text.
    """

    reply: ClassVar[type[Message]] = BatchesCompared

    text: str
    chunk: int
    n_ctx: int
    n_tokens: int
    against: str = ""
    n_ubatches: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ExpertsCompared(Message):
    """A row a matrix: ``(name, relative RMS error, the same by importance, counterpart)``.

    The counterpart is int16, the expert of the reference that each expert is nearest to. The
    errors from it are float64, one an expert, the second empty where no importance was given.
    """

    rows: tuple[tuple[str, bytes, bytes, bytes], ...]


@dataclass(frozen=True, kw_only=True)
class CompareExperts(Request[ExpertsCompared]):
    """Compare the experts of a file with those of the reference, at most ``max_rows`` rows each.

    ``matrices`` are ``(name, where in the reference, where in the file, rows, experts,
    importance)``, where a place is (path, offset, tensor type, bytes of a row); importance is the
    mean square of each input column, float32 of shape (experts, columns), or empty.
    """

    reply: ClassVar[type[Message]] = ExpertsCompared

    matrices: tuple[
        tuple[str, tuple[str, int, str, int], tuple[str, int, str, int], int, int, bytes], ...
    ]
    max_rows: int
