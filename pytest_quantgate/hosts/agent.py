"""Keeps the files of another machine; this text is sent there and stands on the standard library.

Files lie in the host's cache by their SHA-256. Nothing outside the cache is read but the folders
of models that the configuration names, and nothing outside it is written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import os
import shutil
import sys
import time
import uuid
from pathlib import Path
from typing import Any

_BLOCK = 1 << 22
_OLD_S = 86400.0
_IN_USE_S = 3600.0
_NEEDED = ("llama_cpp", "numpy")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


class Agent:
    """Answers one test run; each public method is a question."""

    def __init__(self) -> None:
        self._cache = Path()
        self._folders: tuple[Path, ...] = ()
        self._max_bytes = 0
        self._partial: Any = None
        self._target = ("", "")
        self._known: dict[tuple[Path, int, int], str] = {}

    def open(self, cache: str, folders: tuple[str, ...], max_bytes: int) -> tuple[Any, ...]:
        """Prepare the cache; return Python's version, what is missing, processors, cache, log."""
        self._cache = Path(cache).expanduser().absolute()
        self._folders = tuple(Path(folder).expanduser() for folder in folders)
        self._max_bytes = max_bytes
        for name in ("files", "partial", "made", "references", "sets", "logs"):
            (self._cache / name).mkdir(parents=True, exist_ok=True)
        log = self._cache / "logs" / f"{uuid.uuid4().hex}.log"
        log.touch()
        self._sweep()
        missing = tuple(name for name in _NEEDED if importlib.util.find_spec(name) is None)
        version = ".".join(str(number) for number in sys.version_info[:3])
        if hasattr(os, "sched_getaffinity"):
            n_cpus = len(os.sched_getaffinity(0))
        else:  # macOS
            n_cpus = os.cpu_count() or 1
        return version, missing, n_cpus, str(self._cache), str(log)

    def ping(self) -> str:
        """Say that this still runs."""
        return "alive"

    def find(self, sha256: str, size: int, name: str) -> str:
        """Return where a file of this content is, "" where there is none."""
        path = self._cache / "files" / sha256 / name
        if path.is_file() and path.stat().st_size == size:
            os.utime(path)
            return str(path)
        for folder in self._folders:
            for candidate in folder.rglob("*"):
                if candidate.is_file() and self._is(candidate, size, sha256):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.unlink(missing_ok=True)
                    path.symlink_to(candidate.absolute())
                    return str(path)
        return ""

    def _is(self, path: Path, size: int, sha256: str) -> bool:
        state = path.stat()
        if state.st_size != size:
            return False
        key = path, state.st_size, state.st_mtime_ns
        if key not in self._known:
            self._known[key] = sha256_of(path)
        return self._known[key] == sha256

    def begin(self, sha256: str, size: int, name: str) -> int:
        """Begin to receive a file, or go on where a run was that ended.

        Returns how many bytes are there, −1 if another run is at it.
        """
        self._partial = (self._cache / "partial" / sha256).open("ab")
        try:
            fcntl.flock(self._partial, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._partial.close()
            return -1
        there = int(self._partial.tell())
        if there > size:
            self._partial.truncate(0)
            there = 0
        self._evict(size - there)
        if shutil.disk_usage(self._cache).free < size - there:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._target = (sha256, name)
        return there

    def write(self, data: bytes) -> int:
        """Append to the file that is received."""
        self._partial.write(data)
        self._partial.flush()
        return len(data)

    def finish(self) -> str:
        """Check what was received and keep it; return where, "" if its content is another."""
        sha256, name = self._target
        partial = Path(self._partial.name)
        path = self._cache / "files" / sha256 / name
        try:
            if sha256_of(partial) != sha256:
                partial.unlink()
                return ""
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(path)
        finally:
            self._partial.close()
        return str(path)

    def gather(self, paths: tuple[str, ...]) -> str:
        """Put the files of a split model into one folder; return the first one's path there."""
        folder = self._cache / "sets" / hashlib.sha256("\0".join(paths).encode()).hexdigest()
        folder.mkdir(exist_ok=True)
        for path in map(self._inside, paths):
            with contextlib.suppress(FileExistsError):
                (folder / path.name).symlink_to(path)
        return str(folder / Path(paths[0]).name)

    def destination(self, name: str) -> str:
        """Return where a file can be made."""
        folder = self._cache / "made" / uuid.uuid4().hex
        folder.mkdir()
        return str(folder / name)

    def adopt(self, path: str, name: str) -> tuple[str, str, int]:
        """Keep what was made; return its path, its SHA-256 and its size."""
        made = self._inside(path)
        sha256, size = sha256_of(made), made.stat().st_size
        kept = self._cache / "files" / sha256 / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        made.replace(kept)
        shutil.rmtree(made.parent, ignore_errors=True)
        return str(kept), sha256, size

    def reference(self, name: str) -> str:
        """Return the folder of a reference's distribution."""
        folder = self._cache / "references" / name
        folder.mkdir(exist_ok=True)
        return str(folder)

    def listing(self, folder: str) -> tuple[tuple[str, int, str], ...]:
        """Return name, size and SHA-256 of each file of a folder of the cache."""
        paths = [path for path in self._inside(folder).iterdir() if path.is_file()]
        return tuple((path.name, path.stat().st_size, sha256_of(path)) for path in sorted(paths))

    def place(self, path: str, folder: str, name: str) -> str:
        """Move a file of the cache into one of its folders."""
        target = self._inside(folder) / name
        self._inside(path).replace(target)
        return str(target)

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Return a part of a file of the cache."""
        with self._inside(path).open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)

    def _inside(self, path: str) -> Path:
        """Return a path that is in the cache."""
        whole = Path(os.path.normpath(path))
        if self._cache not in whole.parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return whole

    def _evict(self, needed: int) -> None:
        """Remove the files used longest ago until there is room below the cache's bound."""
        files = [path for path in (self._cache / "files").rglob("*") if path.is_file()]
        states = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in files)
        total = sum(size for _, size, _ in states) + needed
        for used_s, size, path in states:
            if total > self._max_bytes and time.time() - used_s > _IN_USE_S:
                path.unlink()
                total -= size

    def _sweep(self) -> None:
        """Remove what killed runs left, after a day."""
        for name in ("partial", "made", "logs", "references"):
            for path in (self._cache / name).iterdir():
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime > _OLD_S:
                        if path.is_dir():
                            shutil.rmtree(path)
                        else:
                            path.unlink()


def serve(channel: Any) -> None:
    """Answer questions until the channel closes."""
    agent = Agent()
    for name, arguments in channel:
        try:
            channel.send(("ok", getattr(agent, name)(*arguments)))
        except OSError as error:
            channel.send(("error", int(error.errno or 0), error.strerror or type(error).__name__))


if __name__ == "__channelexec__":
    serve(channel)  # type: ignore[name-defined]  # noqa: F821  # execnet puts it here
