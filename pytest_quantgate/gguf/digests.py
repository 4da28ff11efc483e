"""Hashes of a GGUF file: one pass over its bytes, many tensors at a time.

A file's identity is made from its tensors' hashes and that of everything else in it, so no byte
is read twice and no thread has to hash the file from end to end.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pytest_quantgate.errors import ModelFileError
from pytest_quantgate.gguf.reader import GgufFile, Tensor, read_one

IDENTITY_PREFIX = "gguf-"
"""How an identity begins; a plain SHA-256 of a whole file is hexadecimal digits alone."""

MAX_THREADS = 16
_BLOCK_BYTES = 4 << 20

Span = tuple[int, int]
"""Where bytes of a file begin and end."""


@dataclass(frozen=True, kw_only=True)
class TensorDigest:
    """A tensor's type and the SHA-256 of its bytes, "" where they were not hashed."""

    name: str
    type: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class FileDigest:
    """The hashes of one file: its tensors', and that of everything outside of their data."""

    header_sha256: str
    tensors: tuple[TensorDigest, ...]


def digest_file(path: Path, n_threads: int | None = None) -> FileDigest:
    """Hash a file in ``n_threads``, by default as many as this process may use, at most 16.

    Memory is bounded: a thread holds one block of 4 MiB.

    Raises:
        ModelFileError: no GGUF, truncated or damaged.

    """
    tensors = read_one(path).tensors
    # The largest first, so that no thread begins with one when the others are done.
    by_size = sorted(tensors, key=lambda tensor: -tensor.n_bytes)
    jobs = [list(_outside(tensors, path.stat().st_size)), *([_span(item)] for item in by_size)]
    with ThreadPoolExecutor(n_threads or _usable_threads()) as pool:
        header_sha256, *hashes = pool.map(partial(_hash_spans, path), jobs)
    of_tensor = dict(zip((tensor.name for tensor in by_size), hashes, strict=True))
    return FileDigest(
        header_sha256=header_sha256,
        tensors=tuple(
            TensorDigest(name=item.name, type=item.type.name, sha256=of_tensor[item.name])
            for item in tensors
        ),
    )


def digest_header(path: Path) -> str:
    """Hash everything in a file outside of the tensors' data, as in :class:`FileDigest`."""
    return _hash_spans(path, _outside(read_one(path).tensors, path.stat().st_size))


def identity_of(files: Sequence[FileDigest]) -> str:
    """Return the identity of a model from the digests of its files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.header_sha256}\n{tensor_data_sha256(file.tensors)}\n".encode())
    return IDENTITY_PREFIX + digest.hexdigest()


def is_identity(text: str) -> bool:
    """Return whether this is an identity, and not the plain SHA-256 of a file."""
    return text.startswith(IDENTITY_PREFIX)


def tensor_data_sha256(tensors: Iterable[TensorDigest]) -> str:
    """Return the SHA-256 over each tensor's name, type and hash, which metadata leave alone."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.name}\0{tensor.type}\0{tensor.sha256}\n".encode())
    return digest.hexdigest()


def digest_tensors(file: GgufFile) -> tuple[TensorDigest, ...]:
    """Hash a model's tensors, of all its files, in their order."""
    return tuple(tensor for path in file.files for tensor in digest_file(path).tensors)


def _usable_threads() -> int:
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        usable = os.cpu_count() or 1
    return min(usable, MAX_THREADS)


def _span(tensor: Tensor) -> Span:
    return tensor.offset_bytes, tensor.offset_bytes + tensor.n_bytes


def _outside(tensors: Sequence[Tensor], n_bytes: int) -> Iterator[Span]:
    """Yield the spans of a file that are in no tensor: its header, padding and what follows."""
    place = 0
    for start, end in sorted(map(_span, tensors)):
        if start > place:
            yield place, start
        place = max(place, end)
    if n_bytes > place:
        yield place, n_bytes


def _hash_spans(path: Path, spans: Iterable[Span]) -> str:
    """Hash spans of a file as one; both reading and hashing let other threads run."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        for start, end in spans:
            stream.seek(start)
            left = end - start
            buffer = memoryview(bytearray(min(left, _BLOCK_BYTES)))
            while left:
                n_read = stream.readinto(buffer[: min(left, _BLOCK_BYTES)])
                if not n_read:
                    raise ModelFileError(f"model file {path} became shorter while it was read")
                digest.update(buffer[:n_read])
                left -= n_read
    return digest.hexdigest()
