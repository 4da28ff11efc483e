"""Writes GGUF files: fields, the table of tensors, and their data as it comes.

The ``gguf`` package's writer needs a file and packs each entry of a vocabulary by itself (half a
second for 65,536 tokens). Layout: the GGUF specification, version 3, little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from pytest_quantgate.gguf.formats import TensorType

ALIGNMENT_BYTES = 32
"""Where data begins, and each tensor in it: GGUF's default, ``general.alignment``."""

_VERSION = 3
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9

FieldValue = bool | int | float | str | Sequence[str] | Sequence[int]
"""A field's value: bool, uint32, float32, string, or an array of strings or int32."""

NewTensor = tuple[str, TensorType, tuple[int, ...]]
"""A tensor to write: name, type, shape with the row length first."""

Buffer = bytes | memoryview


def padded(n_bytes: int) -> int:
    """Return the next multiple of the alignment."""
    return -(-n_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _string(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(8, "little") + data


def _value(value: FieldValue) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", _BOOL, value)
        case int():
            return struct.pack("<II", _UINT32, value)
        case float():
            return struct.pack("<If", _FLOAT32, value)
        case str():
            return struct.pack("<I", _STRING) + _string(value)
    texts = [item for item in value if isinstance(item, str)]
    if texts:
        return struct.pack("<IIQ", _ARRAY, _STRING, len(texts)) + b"".join(map(_string, texts))
    numbers = [item for item in value if isinstance(item, int)]
    return struct.pack(f"<IIQ{len(numbers)}i", _ARRAY, _INT32, len(numbers), *numbers)


def encode_field(key: str, value: FieldValue) -> bytes:
    """Return one field's bytes."""
    return _string(key) + _value(value)


def data_bytes(tensor_type: TensorType, shape: tuple[int, ...]) -> int:
    """Return the bytes of a tensor's data."""
    return math.prod(shape) // tensor_type.block_elements * tensor_type.block_bytes


def encode_header(fields: Sequence[bytes], tensors: Sequence[NewTensor]) -> bytes:
    """Return all that stands before the data, padded to where the data begins.

    Args:
        fields: from :func:`encode_field`, in the file's order.
        tensors: in the file's order, each of whose data begins where the last one's padding ends.

    """
    pieces = [b"GGUF", struct.pack("<IQQ", _VERSION, len(tensors), len(fields)), *fields]
    offset_bytes = 0
    for name, tensor_type, shape in tensors:
        numbers = struct.pack(
            f"<I{len(shape)}QIQ", len(shape), *shape, tensor_type.number, offset_bytes
        )
        pieces += [_string(name), numbers]
        offset_bytes += padded(data_bytes(tensor_type, shape))
    header = b"".join(pieces)
    return header.ljust(padded(len(header)), b"\0")


def write_gguf(path: Path, header: bytes, data: Iterable[Iterable[Buffer]]) -> None:
    """Write a file: a header from :func:`encode_header`, and each tensor's data in pieces."""
    with path.open("wb") as stream:
        stream.write(header)
        for pieces in data:
            n_bytes = sum(stream.write(piece) for piece in pieces)
            stream.write(bytes(padded(n_bytes) - n_bytes))
