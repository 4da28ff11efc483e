"""Questions that compare: with an oracle, other batches, the reference's experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pytest_quantgate.engines.messages.base import (
    BatchedRequest,
    Message,
    ModelRequest,
    ReadFile,
    Request,
)


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

    oracle: ReadFile


@dataclass(frozen=True, kw_only=True)
class BatchSizeCompared(Message):
    """What one physical batch size changes."""

    n_ubatch: int
    mean_kld_nats: float
    max_kld_nats: float
    top_tokens_changed: int


@dataclass(frozen=True, kw_only=True)
class BatchesCompared(Message):
    """A row a size, in the request's order."""

    rows: tuple[BatchSizeCompared, ...]


@dataclass(frozen=True, kw_only=True)
class CompareBatches(ModelRequest[BatchesCompared]):
    """Decode the first tokens of a chunk in batches of other sizes, and compare with one batch.

    The one batch is decoded on the placement ``against``, "" for the same ``device``.

    ``n_ubatches`` are the physical batch sizes to compare with ``n_tokens`` at once; 0 stands
    for token by token, as in generating text.
    """

    reply: ClassVar[type[Message]] = BatchesCompared

    text: ReadFile
    chunk: int
    n_ctx: int
    n_tokens: int
    against: str = ""
    n_ubatches: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ExpertErrors(Message):
    """How far the experts of one matrix are from the reference's.

    ``counterpart`` is int16, the expert of the reference that each expert is nearest to. The
    relative RMS errors from it are float64, one an expert; ``weighted`` is by importance, and
    empty where none was given.
    """

    name: str
    relative_rms: bytes
    weighted: bytes
    counterpart: bytes


@dataclass(frozen=True, kw_only=True)
class ExpertsCompared(Message):
    """A row a matrix, in the request's order."""

    rows: tuple[ExpertErrors, ...]


@dataclass(frozen=True, kw_only=True)
class TensorPlace(Message):
    """Where the rows of a tensor are in a file."""

    path: ReadFile
    offset_bytes: int
    type_name: str
    row_bytes: int


@dataclass(frozen=True, kw_only=True)
class ExpertMatrix(Message):
    """A matrix of experts in two files; ``n_rows`` are those of one expert.

    ``importance`` is the mean square of each input column, float32 of shape (experts, columns),
    or empty.
    """

    name: str
    reference: TensorPlace
    own: TensorPlace
    n_rows: int
    n_experts: int
    importance: bytes = b""


@dataclass(frozen=True, kw_only=True)
class CompareExperts(Request[ExpertsCompared]):
    """Compare the experts of a file with those of the reference, at most ``max_rows`` rows each."""

    reply: ClassVar[type[Message]] = ExpertsCompared

    matrices: tuple[ExpertMatrix, ...]
    max_rows: int


@dataclass(frozen=True, kw_only=True)
class ComparisonBegun(Message):
    """The experts are compared while the device computes."""


@dataclass(frozen=True, kw_only=True)
class BeginComparison(Request[ComparisonBegun]):
    """Compare experts while the device computes, in a process of their own.

    The same :class:`CompareExperts` then waits for it. Engines answer this one themselves.
    """

    reply: ClassVar[type[Message]] = ComparisonBegun

    comparison: CompareExperts
