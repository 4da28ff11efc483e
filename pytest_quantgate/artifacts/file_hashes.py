"""Models' identities and hashes, worked out once and remembered while the files are unchanged."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pytest_quantgate.errors import CellUnavailable, QuantgateError
from pytest_quantgate.gguf.digests import (
    FileDigest,
    TensorDigest,
    digest_file,
    identity_of,
    is_identity,
)
from pytest_quantgate.gguf.reader import GgufFile, read_gguf
from pytest_quantgate.storage.hashes import FileState, Hashes
from pytest_quantgate.storage.keys import key_of

_KIND = "gguf"


class FileHashes:
    """The identities of models' files, and their plain SHA-256 where one is asked for.

    Args:
        hashes: remembers what was worked out.

    """

    def __init__(self, hashes: Hashes) -> None:
        self._hashes = hashes

    def prefetch(self, files: Sequence[GgufFile]) -> threading.Thread:
        """Begin to hash files in the background, one after the other, each with all processors.

        Who asks for the identity of the one at work waits for it. What goes wrong is left to the
        one who asks.
        """

        def work() -> None:
            for file in files:
                with contextlib.suppress(QuantgateError, OSError):
                    self.digests(file)

        thread = threading.Thread(target=work, name="hash files", daemon=True)
        thread.start()
        return thread

    def digests(self, file: GgufFile) -> tuple[FileDigest, ...]:
        """Return the digests of a model's files, one a file.

        Raises:
            CellUnavailable: the file was replaced by another one after its header was read.

        """
        digests = tuple(self._digest(path) for path in file.files)
        states = tuple(FileState.of(path) for path in file.files)
        if file.states not in {states, ()} and read_gguf(file.files[0]) != file:
            raise CellUnavailable(
                f"model file {file.files[0]} was replaced while it was in use; run again"
            )
        return digests

    def identity(self, file: GgufFile) -> str:
        """Return what identifies a model's bytes, made from its tensors' hashes and its header."""
        return identity_of(self.digests(file))

    def path_identity(self, path: Path) -> str:
        """Return the identity of a model that is one file."""
        return identity_of([self._digest(path)])

    def sha256(self, file: GgufFile) -> str:
        """Return the plain SHA-256 of a model's file, of a split model that over its files'."""
        hashes = [self._hashes.sha256(path) for path in file.files]
        return hashes[0] if len(hashes) == 1 else key_of(parts=hashes)

    def like(self, file: GgufFile, stored: str) -> str:
        """Return a model's hash in the form of a stored one: an identity or a plain SHA-256."""
        return self.identity(file) if is_identity(stored) else self.sha256(file)

    def is_known(self, file: GgufFile, stored: str) -> bool:
        """Return whether :meth:`like` has nothing to work out."""
        kind = _KIND if is_identity(stored) else "sha256"
        return all(self._hashes.known(path, kind) is not None for path in file.files)

    def _digest(self, path: Path) -> FileDigest:
        facts = self._hashes.facts(path, _KIND, lambda file: asdict(digest_file(file)))
        return FileDigest(
            header_sha256=facts["header_sha256"],
            tensors=tuple(TensorDigest(**item) for item in facts["tensors"]),
        )
