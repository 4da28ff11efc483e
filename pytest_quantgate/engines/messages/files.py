"""Questions that make files: quantized models and importance matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pytest_quantgate.engines.messages.base import (
    Message,
    ModelRequest,
    ReadFile,
    Request,
    WrittenFile,
)

_F16 = 1  # the number of ggml's type


@dataclass(frozen=True, kw_only=True)
class ImportanceRow(Message):
    """Where the importances of one weight are: float32 sums and counts, offsets in bytes."""

    name: str
    path: ReadFile
    sums_offset_bytes: int
    counts_offset_bytes: int
    n_sums: int
    n_counts: int


@dataclass(frozen=True, kw_only=True)
class Quantized(Message):
    """The file stands at the destination."""

    seconds_s: float


@dataclass(frozen=True, kw_only=True)
class Quantize(Request[Quantized]):
    """Make a file of another type; ``overrides`` are (pattern, number of the ggml type).

    ``imatrix`` has a row a weight.
    """

    reply: ClassVar[type[Message]] = Quantized

    source: ReadFile
    destination: WrittenFile
    file_type: int
    overrides: tuple[tuple[str, int], ...]
    allow_requantize: bool
    n_threads: int
    imatrix: tuple[ImportanceRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImatrixCollected(Message):
    """The sums stand at the destination, collected over so many chunks."""

    n_chunks: int


@dataclass(frozen=True, kw_only=True)
class CollectImatrix(ModelRequest[ImatrixCollected]):
    """Collect an importance matrix over the chunks of a text, as llama-imatrix does.

    ``destination`` becomes an ``.npz`` of float32 arrays, ``NAME.in_sum2`` of shape (n, columns)
    and ``NAME.counts`` of shape (n,), n the number of experts or 1; ``max_chunks`` 0 takes the
    whole text. Keys and values are F16, as there.
    """

    reply: ClassVar[type[Message]] = ImatrixCollected

    text: ReadFile
    destination: WrittenFile
    max_chunks: int
    n_ctx: int
    type_k: int = _F16
    type_v: int = _F16


@dataclass(frozen=True, kw_only=True)
class QuantizationPlanned(Message):
    """A row a tensor, ``(name, type)``, in the order of the file that quantizing would write.

    ``needs_imatrix`` tells that llama.cpp would refuse without an importance matrix.
    """

    types: tuple[tuple[str, str], ...]
    needs_imatrix: bool


@dataclass(frozen=True, kw_only=True)
class PlanQuantization(Request[QuantizationPlanned]):
    """Ask which type each tensor of a file would get; of ``source`` only the header is read.

    The fields are those of :class:`Quantize`.
    """

    reply: ClassVar[type[Message]] = QuantizationPlanned

    source: ReadFile
    file_type: int
    overrides: tuple[tuple[str, int], ...]
    allow_requantize: bool
    imatrix: tuple[ImportanceRow, ...] = ()
