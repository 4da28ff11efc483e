"""The cache: artifacts keyed by what makes them, written once, verified on every read.

An entry is a file and its stamp, a JSON beside it with the size and SHA-256. The file is written
under another name in the same folder and renamed, the stamp last, so an entry is valid only when
it is whole; a kill at any point leaves at most a ``.partial`` that the next run removes. Locks
are between processes, so several runs share one cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

STAMP_VERSION = 1
_DAY_S = 24 * 3600.0
_PARTIAL_AGE_S = _DAY_S
_KEPT_S = {"runs": 7 * _DAY_S, "measurements": 7 * _DAY_S, "references": 60 * _DAY_S}
"""How long parts of the cache are kept after they were last written."""


def key_of(**parts: object) -> str:
    """Return the key of what these parts determine: SHA-256 of their canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Write JSON with sorted keys, atomically."""
    text = json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())


def read_json(path: Path) -> Any | None:
    """Read JSON; None where there is none that can be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A verified file of the cache, and the facts that were stored with it."""

    path: Path
    sha256: str
    n_bytes: int
    facts: dict[str, Any]


class Cache:
    """The folder of artifacts, measurements, texts, logs and locks.

    Args:
        folder: where it is; None is the user's cache folder.
        max_bytes: artifacts used longest ago are removed above this.

    """

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        self.folder = folder or user_cache_path("pytest-quantgate", appauthor=False)
        self._max_bytes = max_bytes
        self._verified: dict[Path, Entry] = {}

    def sub(self, name: str) -> Path:
        """Return a folder of the cache, made if it is not there."""
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock between processes; it goes with a process that dies."""
        with FileLock(self.sub("locks") / f"{name}.lock"):
            yield

    def artifact(self, key: str, suffix: str, make: Callable[[Path], dict[str, Any]]) -> Entry:
        """Return the file of a key, made by ``make`` if it is not there or not whole.

        Args:
            key: from :func:`key_of`.
            suffix: the file's ending, with the dot.
            make: writes the file at the path that it is given and returns facts to keep.

        """
        path = self.sub("artifacts") / f"{key}{suffix}"
        found = self._verified.get(path)
        if found is not None and path.exists():
            return found
        with self.lock(f"artifact-{key[:32]}"):
            entry = self._read(path)
            if entry is None:
                entry = self._write(path, make)
        self._verified[path] = entry
        self.evict(keep=set(self._verified))
        return entry

    def text(self, data: bytes, sha256: str) -> Path:
        """Return a file with these bytes, for a worker to read."""
        path = self.sub("texts") / f"{sha256}.txt"
        if not path.is_file() or file_sha256(path) != sha256:
            write_atomically(path, data)
        return path

    def sha256_of(self, path: Path) -> str:
        """Hash a user's file once; it is remembered by path, size and modification time."""
        state = path.stat()
        known = self.sub("hashes") / f"{key_of(path=str(path.resolve()))}.json"
        remembered = read_json(known)
        identity = {"n_bytes": state.st_size, "mtime_ns": state.st_mtime_ns}
        if isinstance(remembered, dict) and remembered.get("of") == identity:
            return str(remembered["sha256"])
        digest = file_sha256(path)
        write_json(known, {"of": identity, "path": str(path), "sha256": digest})
        return digest

    def contents(self) -> dict[str, tuple[int, int]]:
        """Return the number of files and bytes of each part of the cache."""
        parts = {}
        for name in ("artifacts", "references", "measurements", "tokens", "texts", "runs"):
            files = [path for path in self.sub(name).rglob("*") if path.is_file()]
            parts[name] = (len(files), sum(path.stat().st_size for path in files))
        return parts

    def clear(self) -> None:
        """Remove what can be made again; per-token values of baselines are kept."""
        self.evict(keep=set())
        for name in ("references", "measurements"):
            for path in self.sub(name).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def prune(self) -> None:
        """Remove runs and measurements that nothing will ask for again."""
        now = time.time()
        for name, age_s in _KEPT_S.items():
            for path in self.sub(name).iterdir():
                with contextlib.suppress(OSError):
                    if now - path.stat().st_mtime > age_s:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def evict(self, keep: set[Path]) -> None:
        """Remove artifacts used longest ago until the cache is within its bound.

        What this run uses is kept, and so is what another process holds the lock of.
        """
        folder = self.sub("artifacts")
        now = time.time()
        files = []
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                if path.name.endswith(".partial"):
                    if now - state.st_mtime > _PARTIAL_AGE_S:
                        path.unlink()
                elif path.suffix != ".json":
                    stamp = _stamp_path(path)
                    used = stamp.stat().st_mtime if stamp.exists() else state.st_mtime
                    files.append((used, state.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._max_bytes:
                break
            if path in keep:
                continue
            lock = FileLock(self.sub("locks") / f"artifact-{path.stem[:32]}.lock", timeout=0)
            try:
                with lock:
                    _stamp_path(path).unlink(missing_ok=True)
                    path.unlink(missing_ok=True)
                    total -= size
            except (Timeout, PermissionError):
                continue

    def _read(self, path: Path) -> Entry | None:
        stamp = read_json(_stamp_path(path))
        if not path.is_file() or not isinstance(stamp, dict):
            return None
        if stamp.get("version") != STAMP_VERSION or stamp.get("n_bytes") != path.stat().st_size:
            return None
        if file_sha256(path) != stamp.get("sha256"):
            return None
        os.utime(_stamp_path(path))
        return Entry(
            path=path, sha256=stamp["sha256"], n_bytes=stamp["n_bytes"], facts=stamp["facts"]
        )

    def _write(self, path: Path, make: Callable[[Path], dict[str, Any]]) -> Entry:
        _stamp_path(path).unlink(missing_ok=True)
        for old in path.parent.glob(f"{path.stem}.*.partial"):
            old.unlink(missing_ok=True)  # a killed run's: nobody else writes under this lock
        partial = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.partial")
        try:
            facts = make(partial)
            digest, n_bytes = file_sha256(partial), partial.stat().st_size
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        write_json(
            _stamp_path(path),
            {"version": STAMP_VERSION, "sha256": digest, "n_bytes": n_bytes, "facts": facts},
        )
        return Entry(path=path, sha256=digest, n_bytes=n_bytes, facts=facts)


def _stamp_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
