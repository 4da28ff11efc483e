"""What was worked out from a file's bytes, remembered for as long as the file is unchanged."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_quantgate.storage.atomic import read_json, write_json
from pytest_quantgate.storage.keys import file_sha256, key_of

_HEAD_BYTES = 1 << 20
_BLOCKS = 64
_BLOCK_BYTES = 4096
_TICK_S = 0.02  # two changes within a clock tick of the file system leave the same times

Facts = Mapping[str, Any]
"""What was worked out: plain values that JSON holds."""


@dataclass(frozen=True, kw_only=True)
class FileState:
    """What the file system says of a file, of which something changes when its bytes do.

    A program may set the modification time, but not the time of the inode's last change, and
    another file put in its place has another inode.
    """

    inode: int
    n_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Return a file's state now."""
        state = path.stat()
        return cls(
            inode=state.st_ino,
            n_bytes=state.st_size,
            mtime_ns=state.st_mtime_ns,
            ctime_ns=state.st_ctime_ns,
        )


def sample_sha256(path: Path) -> str:
    """Hash a file's beginning and blocks spread evenly over the rest.

    Not every file system keeps inodes and times as it should; another model differs in nearly
    every block.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        n_bytes = os.fstat(stream.fileno()).st_size
        digest.update(stream.read(_HEAD_BYTES))
        rest = max(0, n_bytes - _HEAD_BYTES - _BLOCK_BYTES)
        for number in range(_BLOCKS if n_bytes > _HEAD_BYTES else 0):
            stream.seek(_HEAD_BYTES + rest * number // (_BLOCKS - 1))
            digest.update(stream.read(_BLOCK_BYTES))
    return digest.hexdigest()


class Hashes:
    """Facts about files' bytes, kept beside the files' states in a folder.

    Args:
        folder: where they are kept.
        lock: a lock of a name between processes.

    """

    def __init__(self, folder: Path, lock: Callable[[str], AbstractContextManager[None]]) -> None:
        self._folder = folder
        self._lock = lock
        self._checked: dict[tuple[Path, str], tuple[FileState, Facts]] = {}

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file's bytes."""
        return str(self.facts(path, "sha256", lambda file: {"hex": file_sha256(file)})["hex"])

    def facts(self, path: Path, kind: str, work_out: Callable[[Path], Facts]) -> Facts:
        """Return facts of one kind about a file's bytes, worked out if they are not remembered.

        A second caller waits for the first, in another thread or process too.
        """
        facts = self._quickly(path, kind)
        if facts is not None:
            return facts
        name = key_of(path=str(path.resolve()))
        with self._lock(f"hash-{name[:32]}"):
            facts = self.known(path, kind)
            if facts is None:
                facts = self._work_out(path, kind, work_out)
        return facts

    def known(self, path: Path, kind: str) -> Facts | None:
        """Return remembered facts, None where there are none or the file has changed."""
        facts = self._quickly(path, kind)
        if facts is not None:
            return facts
        state = FileState.of(path)
        entry = self._remembered(path, state)
        if kind not in entry or entry["sample"] != sample_sha256(path):
            return None
        self._checked[path, kind] = (state, entry[kind])
        return dict(entry[kind])

    def _quickly(self, path: Path, kind: str) -> Facts | None:
        state, facts = self._checked.get((path, kind), (None, None))
        return facts if state is not None and state == FileState.of(path) else None

    def _remembered(self, path: Path, state: FileState) -> dict[str, Any]:
        entry = read_json(self._place(path))
        if isinstance(entry, dict) and entry.get("of") == asdict(state):
            return entry
        return {}

    def _place(self, path: Path) -> Path:
        return self._folder / f"{key_of(path=str(path.resolve()))}.json"

    def _work_out(self, path: Path, kind: str, work_out: Callable[[Path], Facts]) -> Facts:
        while True:
            state = FileState.of(path)
            if abs(time.time() - state.ctime_ns / 1e9) < _TICK_S:
                time.sleep(_TICK_S)
            facts, sample = work_out(path), sample_sha256(path)
            if FileState.of(path) == state:
                break
        entry = self._remembered(path, state)
        kept = entry if entry.get("sample") == sample else {}
        entry = {**kept, "of": asdict(state), "path": str(path), "sample": sample, kind: facts}
        write_json(self._place(path), entry)
        self._checked[path, kind] = (state, facts)
        return facts
