"""llama-perplexity's base file: a text's tokens and the reference's distributions.

Layout, from ``kl_divergence`` in llama.cpp's ``tools/perplexity/perplexity.cpp``: ``_logits_``,
 int32 n_ctx, n_vocab, n_chunk, the chunks' int32 tokens, then for each scored token a
row of uint16: a float32 scale, a float32 minimum and a code for each token of the vocabulary.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_quantgate.errors import CellCrashed
from pytest_quantgate.storage.environment import environment

_MAGIC = b"_logits_"
_HEADER = struct.Struct("<8siii")
_BLOCK_BYTES = 16 << 20

_CHECKED: set[tuple[object, ...]] = set()
"""The states of files whose bytes were hashed."""


def base_file_bytes(n_ctx: int, n_vocab: int, n_chunks: int) -> int:
    """Return a base file's size."""
    return _HEADER.size + n_chunks * (4 * n_ctx + _chunk_bytes(n_ctx, n_vocab))


def _chunk_bytes(n_ctx: int, n_vocab: int) -> int:
    row = 2 * (2 * ((n_vocab + 1) // 2) + 4)
    return (n_ctx - 1 - n_ctx // 2) * row


@dataclass(frozen=True, kw_only=True)
class BaseFile:
    """A whole base file."""

    path: Path
    n_ctx: int
    n_vocab: int
    n_chunks: int

    @classmethod
    def open(cls, path: Path) -> BaseFile:
        """Read the header and check that all rows are there.

        Raises:
            CellCrashed: no such file, or one that was not written to its end.

        """
        try:
            with path.open("rb") as stream:
                header = stream.read(_HEADER.size)
            n_bytes = path.stat().st_size
        except OSError as error:
            raise CellCrashed(f"the base file {path} cannot be read: {error.strerror}") from error
        magic, n_ctx, n_vocab, n_chunks = _HEADER.unpack(header.ljust(_HEADER.size, b"\0"))
        expected = base_file_bytes(n_ctx, n_vocab, n_chunks)
        if magic != _MAGIC or n_bytes != expected:
            raise CellCrashed(
                f"the base file {path} has {n_bytes:,} of {expected:,} bytes; is the disk full?"
                f" Delete {path.parent} to have it made again"
            )
        return cls(path=path, n_ctx=n_ctx, n_vocab=n_vocab, n_chunks=n_chunks)

    def check(self, sha256: str) -> None:
        """Check, once a process and state of the file, that it is what was written.

        Raises:
            CellCrashed: it is not.
            EnvironmentProblem: it cannot be read.

        """
        with environment("cannot read", self.path):
            stat = self.path.stat()
            state = (self.path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
            if state in _CHECKED:
                return
            with self.path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != sha256:
            raise CellCrashed(
                f"the base file {self.path} is not what llama-perplexity wrote; delete"
                f" {self.path.parent} to have it made again"
            )
        _CHECKED.add(state)

    def token_ids_sha256(self, bos: int | None) -> Iterator[str]:
        """Hash each chunk's int32 ids as they are decoded, a ``bos`` over the first of them."""
        with self.path.open("rb") as stream:
            stream.seek(_HEADER.size)
            for _ in range(self.n_chunks):
                ids = stream.read(4 * self.n_ctx)
                if bos is not None:
                    ids = struct.pack("<i", bos) + ids[4:]
                yield hashlib.sha256(ids).hexdigest()

    def write_first(self, n_chunks: int, destination: Path) -> None:
        """Write a base file of the first chunks alone.

        Raises:
            EnvironmentProblem: it cannot be written.

        """
        left = n_chunks * _chunk_bytes(self.n_ctx, self.n_vocab)
        with (
            environment("cannot write", destination),
            self.path.open("rb") as source,
            destination.open("wb") as stream,
        ):
            stream.write(_HEADER.pack(_MAGIC, self.n_ctx, self.n_vocab, n_chunks))
            source.seek(_HEADER.size)
            stream.write(source.read(4 * n_chunks * self.n_ctx))
            source.seek(_HEADER.size + 4 * self.n_chunks * self.n_ctx)
            while left:
                block = source.read(min(left, _BLOCK_BYTES))
                stream.write(block)
                left -= len(block)
