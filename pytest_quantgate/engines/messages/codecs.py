"""Questions of single codecs: rows of numbers in, rows of numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pytest_quantgate.engines.messages.base import Message, ReplyT, Request


@dataclass(frozen=True, kw_only=True)
class NativeType(Message):
    """One quantized type of an engine."""

    name: str
    type_id: int
    block_elements: int
    block_bytes: int
    needs_imatrix: bool


@dataclass(frozen=True, kw_only=True)
class CodecsListed(Message):
    """The engine's quantized types."""

    types: tuple[NativeType, ...]


@dataclass(frozen=True, kw_only=True)
class ListCodecs(Request[CodecsListed]):
    """Ask which quantized types the engine has."""

    reply: ClassVar[type[Message]] = CodecsListed


@dataclass(frozen=True, kw_only=True)
class Coded(Message):
    """What came out: uint8 of :class:`Encode`, float32 of :class:`Decode`, by rows."""

    data: bytes


@dataclass(frozen=True, kw_only=True)
class Encode(Request[Coded]):
    """Quantize ``rows``, float32 of shape (n_rows, n_columns); ``imatrix`` float32 or empty."""

    reply: ClassVar[type[Message]] = Coded

    type_name: str
    rows: bytes
    n_rows: int
    n_columns: int
    imatrix: bytes


@dataclass(frozen=True, kw_only=True)
class RowsRequest(Request[ReplyT]):
    """Base of what is asked of quantized rows: ``data``, uint8 of shape (n_rows, row_bytes)."""

    type_name: str
    data: bytes
    n_rows: int
    row_bytes: int


@dataclass(frozen=True, kw_only=True)
class Decode(RowsRequest[Coded]):
    """Dequantize the rows."""

    reply: ClassVar[type[Message]] = Coded


@dataclass(frozen=True, kw_only=True)
class Dotted(Message):
    """Products, float32 of shape (n_rows,), and the activations as the kernel saw them, (k,)."""

    products: bytes
    activations: bytes


@dataclass(frozen=True, kw_only=True)
class VecDot(RowsRequest[Dotted]):
    """Multiply the rows with a float32 vector on the CPU."""

    reply: ClassVar[type[Message]] = Dotted

    activations: bytes


@dataclass(frozen=True, kw_only=True)
class Multiplied(Message):
    """Products, float32 (n_activations, n_rows); ``taken`` False: the device has no such kernel."""

    taken: bool
    products: bytes


@dataclass(frozen=True, kw_only=True)
class MatMul(RowsRequest[Multiplied]):
    """Multiply the rows with float32 rows through a backend.

    ``device`` is a name that ggml lists; ``repack`` asks for the CPU's repacked layout.
    """

    reply: ClassVar[type[Message]] = Multiplied

    activations: bytes
    n_activations: int
    device: str
    repack: bool
