"""What a GGUF file says of itself, read from its header alone.

The ``gguf`` package's reader builds an array for each entry of the vocabulary (half a second a
file) and refuses tensor types newer than itself; here a header is read in some 30 ms, the
vocabulary is skipped, and every way in which a file can be damaged has a message of its own.
Layout: the GGUF specification, versions 2 and 3.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pytest_quantgate.errors import ModelFileError
from pytest_quantgate.gguf.formats import TENSOR_TYPES, TensorType
from pytest_quantgate.storage.hashes import FileState

_BY_NUMBER = {row.number: row for row in TENSOR_TYPES.values()}

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_TOKENIZER = "tokenizer."


MAX_NAME_BYTES = 63
"""The longest name of a tensor that llama.cpp takes (``GGML_MAX_NAME`` with its final NUL)."""

_MAX_STRING_BYTES = 1 << 26  # a tokenizer's or a chat template's longest have some megabytes
_MAX_ENTRIES = 1 << 24  # of a vocabulary or its merges
_MAX_TENSORS = 1 << 20  # and fields

_SPLIT_NAME = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")

Value = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a file: ``shape`` is in ggml's order, the row length first."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    offset_bytes: int
    file: Path

    @property
    def n_elements(self) -> int:
        """Weights."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of the data, from type and shape."""
        return self.n_elements // self.type.block_elements * self.type.block_bytes


@dataclass(frozen=True, kw_only=True)
class GgufFile:
    """A model's header: all its files (split models have several), fields and tensors.

    ``metadata`` holds scalars and strings; arrays are left out. ``states`` are those of the files
    when they were read, () for what was not read from a file. ``tokenizer_sha256`` is the SHA-256
    of all fields that a tokenizer is made from, arrays too; files with the same one cut a text into
    the same tokens.
    """

    files: tuple[Path, ...]
    metadata: dict[str, Value]
    tensors: tuple[Tensor, ...]
    n_bytes: int
    states: tuple[FileState, ...] = field(default=(), compare=False)
    tokenizer_sha256: str = field(default="", compare=False)

    @property
    def architecture(self) -> str:
        """The architecture's name, such as ``olmoe``."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def n_parameters(self) -> int:
        """Weights of all tensors."""
        return sum(tensor.n_elements for tensor in self.tensors)

    @property
    def n_experts(self) -> int:
        """Experts of a layer, 0 in a model without."""
        return self.hyperparameter("expert_count") or 0

    @property
    def n_experts_used(self) -> int:
        """Experts that a token is sent to, 0 in a model without."""
        return self.hyperparameter("expert_used_count") or 0

    def hyperparameter(self, name: str) -> int | None:
        """Return the architecture's integer field, as ``embedding_length``, if it is there."""
        value = self.metadata.get(f"{self.architecture}.{name}")
        return int(value) if isinstance(value, int) else None

    def settings(self) -> dict[str, str]:
        """Return the scalar fields that bear on figures: the architecture's and the tokenizer's.

        A string longer than 64 characters is left out: none of those is a setting.
        """
        prefixes = (f"{self.architecture}.", "tokenizer.ggml.")
        return {
            name: str(value)
            for name, value in self.metadata.items()
            if name.startswith(prefixes) and len(str(value)) <= 64
        }

    def main_type(self) -> str:
        """Return the tensor type that holds most of the weights."""
        weights: dict[str, int] = {}
        for tensor in self.tensors:
            weights[tensor.type.name] = weights.get(tensor.type.name, 0) + tensor.n_elements
        return max(weights, key=weights.__getitem__)


class _Truncated(Exception):
    pass


def _read(stream: BinaryIO, size: int) -> bytes:
    if size > _MAX_STRING_BYTES:  # a damaged length, for which no memory is to be taken
        raise _Truncated
    data = stream.read(size)
    if len(data) != size:
        raise _Truncated
    return data


def _skip(stream: BinaryIO, size: int) -> None:
    if size > 1 << 40:  # far beyond any header; a larger step overflows the file's position
        raise _Truncated
    stream.seek(size, 1)


def _number(stream: BinaryIO, layout: str) -> int:
    return int(struct.unpack(layout, _read(stream, struct.calcsize(layout)))[0])


def _string(stream: BinaryIO) -> str:
    return _read(stream, _number(stream, "<Q")).decode("utf-8", errors="replace")


def _value(stream: BinaryIO, kind: int) -> Value | None:
    if kind == _STRING:
        return _string(stream)
    if kind == _ARRAY:
        item_kind, count = _number(stream, "<I"), _number(stream, "<Q")
        if item_kind in _SCALARS:
            _skip(stream, count * struct.calcsize(_SCALARS[item_kind]))
        elif item_kind == _STRING and count <= _MAX_ENTRIES:
            for _ in range(count):
                _skip(stream, _number(stream, "<Q"))
        else:
            raise _Truncated  # llama.cpp refuses arrays of arrays too
        return None
    layout = _SCALARS.get(kind)
    if layout is None:
        raise _Truncated
    value: Value = struct.unpack(layout, _read(stream, struct.calcsize(layout)))[0]
    return value


def read_one(path: Path) -> GgufFile:
    """Read the header of one file, which may be one of a split model.

    Raises:
        ModelFileError: no GGUF, truncated or damaged.

    """
    try:
        with path.open("rb") as stream:
            return _parse(path, stream)
    except _Truncated:
        raise ModelFileError(
            f"model file {path} is truncated or damaged: its header ends early; get it again"
        ) from None
    except OSError as error:
        raise ModelFileError(f"model file {path} cannot be read: {error.strerror}") from error


def _parse(path: Path, stream: BinaryIO) -> GgufFile:
    magic = stream.read(4)
    if magic != b"GGUF":
        raise ModelFileError(
            f"model file {path} is no GGUF file: it begins with {magic!r}, not b'GGUF';"
            " convert it with llama.cpp's convert_hf_to_gguf.py"
        )
    version = _number(stream, "<I")
    if version not in {2, 3} and int.from_bytes(version.to_bytes(4, "little"), "big") in {2, 3}:
        raise ModelFileError(
            f"model file {path} is big-endian, which llama.cpp reads on big-endian machines alone;"
            " convert it: python -m gguf.scripts.gguf_convert_endian FILE little"
        )
    if version not in {2, 3}:
        raise ModelFileError(f"model file {path} is GGUF version {version}; valid: 2, 3")
    n_tensors, n_fields = _number(stream, "<Q"), _number(stream, "<Q")
    if n_tensors > _MAX_TENSORS or n_fields > _MAX_TENSORS:
        raise _Truncated
    metadata, tokenizer_sha256 = _read_fields(path, stream, n_fields)
    tensors = _read_tensors(path, stream, n_tensors)
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise ModelFileError(
            f"model file {path} is damaged: general.alignment is {alignment!r:.80}, no power of"
            " two; get it again"
        )
    header_bytes = stream.tell()
    start = -(-header_bytes // alignment) * alignment
    state = FileState.of(path)
    n_bytes = state.n_bytes
    placed = tuple(
        Tensor(name=name, type=kind, shape=shape, offset_bytes=start + offset, file=path)
        for name, kind, shape, offset in tensors
    )
    end = max((tensor.offset_bytes + tensor.n_bytes for tensor in placed), default=header_bytes)
    if end > n_bytes:
        raise ModelFileError(
            f"model file {path} is truncated: {n_bytes:,} bytes of {end:,}; get it again"
        )
    return GgufFile(
        files=(path,),
        metadata=metadata,
        tensors=placed,
        n_bytes=n_bytes,
        states=(state,),
        tokenizer_sha256=tokenizer_sha256,
    )


def _read_fields(path: Path, stream: BinaryIO, count: int) -> tuple[dict[str, Value], str]:
    """Read the fields, arrays left out, and hash the tokenizer's with theirs, in any order."""
    metadata: dict[str, Value] = {}
    keys: set[str] = set()
    hashes: list[bytes] = []
    for _ in range(count):
        begin = stream.tell()
        key = _string(stream)
        value = _value(stream, _number(stream, "<I"))
        if key in keys:
            raise ModelFileError(f"model file {path} is damaged: it has the key {key!r:.80} twice")
        keys.add(key)
        if value is not None:
            metadata[key] = value
        if key.startswith(_TOKENIZER) or key == "general.architecture":
            end = stream.tell()
            stream.seek(begin)
            hashes.append(_hash(stream, end - begin))
    return metadata, hashlib.sha256(b"".join(sorted(hashes))).hexdigest()


def _hash(stream: BinaryIO, size: int) -> bytes:
    digest = hashlib.sha256()
    while size:
        data = _read(stream, min(size, 1 << 20))
        digest.update(data)
        size -= len(data)
    return digest.digest()


def _read_tensors(
    path: Path, stream: BinaryIO, count: int
) -> list[tuple[str, TensorType, tuple[int, ...], int]]:
    """Read the table of tensors: name, type, shape and the offset from the data's start."""
    tensors = []
    names: set[str] = set()
    for _ in range(count):
        name = _string(stream)
        where = f"model file {path}: tensor {name!r:.80}"
        if len(name.encode()) > MAX_NAME_BYTES:
            raise ModelFileError(
                f"{where} has a name of {len(name.encode())} bytes, and llama.cpp takes"
                f" {MAX_NAME_BYTES}; rename it and convert the model anew"
            )
        if name in names:
            raise ModelFileError(f"{where} is in it twice; get it again")
        names.add(name)
        n_dimensions = _number(stream, "<I")
        if n_dimensions > 4:
            raise _Truncated
        # A tensor without dimensions has one weight, as ggml reads it.
        shape = tuple(_number(stream, "<Q") for _ in range(n_dimensions)) or (1,)
        if 0 in shape:
            raise _Truncated
        number, offset = _number(stream, "<I"), _number(stream, "<Q")
        tensor_type = _BY_NUMBER.get(number)
        if tensor_type is None:
            raise ModelFileError(f"{where} has the unknown ggml type {number}")
        if shape[0] % tensor_type.block_elements:
            raise ModelFileError(
                f"{where} has rows of {shape[0]} weights, no multiple of {tensor_type.name}'s"
                f" {tensor_type.block_elements}; get it again"
            )
        tensors.append((name, tensor_type, shape, offset))
    return tensors


def split_names(name: str) -> tuple[str, ...]:
    """Return the names of all files of a split model whose first file has this name."""
    match = _SPLIT_NAME.match(name)
    if match is None:
        return (name,)
    count = int(match["count"])
    return tuple(
        f"{match['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)
    )


def split_files(path: Path) -> tuple[Path, ...]:
    """Return every file of the split model that begins with ``path``, or just ``path``.

    Raises:
        ModelFileError: a file is missing, or ``path`` is not the first one.

    """
    match = _SPLIT_NAME.match(path.name)
    if match is None:
        return (path,)
    count = int(match["count"])
    if int(match["number"]) != 1:
        raise ModelFileError(
            f"model file {path} is file {int(match['number'])} of {count} of a split model; name"
            " the first:"
            f" {match['stem']}-00001-of-{count:05d}.gguf"
        )
    files = tuple(path.with_name(name) for name in split_names(path.name))
    for file in files:
        if not file.is_file():
            raise ModelFileError(f"model file {file} is missing: one of the {count} of {path}")
    return files


def read_gguf(path: Path) -> GgufFile:
    """Read the header of a model, of all its files if it is split.

    Raises:
        ModelFileError: no GGUF, truncated, damaged, a file missing.

    """
    if not path.is_file():
        raise ModelFileError(f"model file {path} does not exist")
    headers = [read_one(file) for file in split_files(path)]
    return GgufFile(
        files=tuple(file for header in headers for file in header.files),
        metadata=headers[0].metadata,
        tensors=tuple(tensor for header in headers for tensor in header.tensors),
        n_bytes=sum(header.n_bytes for header in headers),
        states=tuple(state for header in headers for state in header.states),
        tokenizer_sha256=headers[0].tokenizer_sha256,
    )


def read_tensor(tensor: Tensor) -> bytes:
    """Return a tensor's bytes."""
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.offset_bytes)
        return stream.read(tensor.n_bytes)
