"""Faults that are planted in copies of GGUF files, byte by byte.

Each function changes one file in place and touches nothing but what it names. Offsets of the
scales are those of the block structures in llama.cpp's ``ggml/src/ggml-common.h``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pytest_quantgate.gguf.reader import GgufFile, Tensor, read_gguf

ByteArray = npt.NDArray[np.uint8]

SCALE_OFFSET_BYTES = {"Q4_0": 0, "Q5_0": 0, "Q8_0": 0, "Q4_K": 0, "Q5_K": 0, "Q6_K": 208}
"""Where in a block of each type its float16 scale stands."""


def tensors_named(file: GgufFile, ending: str) -> list[Tensor]:
    """Return the tensors whose name ends so.

    Raises:
        ValueError: there is none.

    """
    found = [tensor for tensor in file.tensors if tensor.name.endswith(ending)]
    if not found:
        raise ValueError(f"{file.files[0]} has no tensor that ends in {ending!r}")
    return found


def _edit(tensor: Tensor, change: Callable[[ByteArray], None]) -> None:
    """Change a tensor's blocks, uint8 of shape (blocks, bytes a block), in its file."""
    shape = (tensor.n_bytes // tensor.type.block_bytes, tensor.type.block_bytes)
    blocks = np.memmap(
        tensor.file, dtype=np.uint8, mode="r+", offset=tensor.offset_bytes, shape=shape
    )
    change(blocks)
    blocks.flush()


def _scales(blocks: ByteArray, type_name: str) -> npt.NDArray[np.float16]:
    at = SCALE_OFFSET_BYTES[type_name]
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16)[:, 0]


def _put_scales(blocks: ByteArray, type_name: str, scales: npt.NDArray[np.float16]) -> None:
    at = SCALE_OFFSET_BYTES[type_name]
    blocks[:, at : at + 2] = scales[:, None].view(np.uint8)


def multiply_scales(path: Path, ending: str, factor: float, block: int | None = None) -> None:
    """Multiply the scales of some tensors, of one block of each if ``block`` is given."""
    for tensor in tensors_named(read_gguf(path), ending):
        rows = slice(None) if block is None else slice(block, block + 1)

        def change(blocks: ByteArray, rows: slice = rows, name: str = tensor.type.name) -> None:
            scaled = _scales(blocks[rows], name).astype(np.float32) * factor
            _put_scales(blocks[rows], name, scaled.astype(np.float16))

        _edit(tensor, change)


def largest_block(path: Path, name: str) -> int:
    """Return the block of a tensor whose scale is the largest: where a fault does most."""
    (tensor,) = tensors_named(read_gguf(path), name)
    at, size = tensor.offset_bytes, tensor.n_bytes
    with tensor.file.open("rb") as stream:
        stream.seek(at)
        data = np.frombuffer(stream.read(size), dtype=np.uint8)
    blocks = data.reshape(-1, tensor.type.block_bytes)
    return int(np.abs(_scales(blocks, tensor.type.name).astype(np.float32)).argmax())


def flip_bits(path: Path, tensors: Sequence[Tensor], bits: Sequence[int]) -> None:
    """Flip bits, counted through the tensors' bytes in their order, lowest bit first."""
    ends = np.cumsum([8 * tensor.n_bytes for tensor in tensors])
    with path.open("r+b") as stream:
        for bit in bits:
            number = int(np.searchsorted(ends, bit, side="right"))
            inside = bit - (int(ends[number - 1]) if number else 0)
            at = tensors[number].offset_bytes + inside // 8
            stream.seek(at)
            byte = stream.read(1)[0] ^ (1 << inside % 8)
            stream.seek(at)
            stream.write(bytes([byte]))


def swap_layers(path: Path, first: int, second: int) -> int:
    """Swap the bytes of two layers where their types are equal, and return how many tensors."""
    file = read_gguf(path)
    tensors = {tensor.name: tensor for tensor in file.tensors}
    swapped = 0
    for name, one in tensors.items():
        if not name.startswith(f"blk.{first}."):
            continue
        other = tensors[name.replace(f"blk.{first}.", f"blk.{second}.")]
        if one.type != other.type:
            continue
        with path.open("r+b") as stream:
            data = []
            for tensor in (one, other):
                stream.seek(tensor.offset_bytes)
                data.append(stream.read(tensor.n_bytes))
            for tensor, bytes_ in zip((other, one), data, strict=True):
                stream.seek(tensor.offset_bytes)
                stream.write(bytes_)
        swapped += 1
    return swapped


def set_field(path: Path, name: str, value: str | float) -> None:
    """Overwrite a scalar of the header: a float32, or a string by one of the same length.

    Raises:
        ValueError: no such field, or another length.

    """
    first_tensor = min(tensor.offset_bytes for tensor in read_gguf(path).tensors)
    with path.open("r+b") as stream:
        header = stream.read(first_tensor)
        key = struct.pack("<Q", len(name)) + name.encode()
        at = header.find(key)
        if at < 0:
            raise ValueError(f"{path} has no field {name!r}")
        at += len(key) + 4  # behind the number of the value's type
        if isinstance(value, str):
            (length,) = struct.unpack_from("<Q", header, at)
            if length != len(value.encode()):
                raise ValueError(f"{name} has {length} bytes, {value!r} has another number")
            at += 8
            data = value.encode()
        else:
            data = struct.pack("<f", value)
        stream.seek(at)
        stream.write(data)


def append_zeros(path: Path) -> None:
    """Make a file another one, whose model is the same: a run measures equal files once."""
    with path.open("ab") as stream:
        stream.write(bytes(32))


def truncate(path: Path, part: float) -> None:
    """Cut a file's end off, so that this part of its bytes is left."""
    with path.open("r+b") as stream:
        stream.truncate(int(path.stat().st_size * part))
