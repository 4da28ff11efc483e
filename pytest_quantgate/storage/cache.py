"""The cache: artifacts keyed by what makes them, written once, verified on every read.

An entry is a file and its stamp, a JSON beside it with the size and identity. The file is written
under another name in the same folder and renamed, the stamp last, so an entry is valid only when
it is whole; a kill at any point leaves at most a ``.partial`` that the next run removes. Locks
are between processes, so several runs share one cache.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
from filelock import FileLock

from pytest_quantgate.errors import ModelFileError
from pytest_quantgate.storage.atomic import read_json, write_atomically, write_json
from pytest_quantgate.storage.environment import cache_folder, environment
from pytest_quantgate.storage.hashes import FileState, Hashes
from pytest_quantgate.storage.keys import file_sha256

STAMP_VERSION = 2
_DAY_S = 24 * 3600.0
_GOING_ON_S = _DAY_S  # what has written nothing for so long has ended
_ENDED = "ended"  # a killed run's folder does not have it
_WRITING_S = 300.0  # a process that writes a file adds to it in less
_PID_DIGITS = 11  # a random name of 32 digits is no number of a process


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of the cache.

    ``kept_s`` is how long an entry is kept after it was last written, None for without end;
    ``is_made_again`` says that a run makes what it misses there.
    """

    what: str
    kept_s: float | None
    is_made_again: bool = True


FOLDERS: Mapping[str, Folder] = MappingProxyType(
    {
        "artifacts": Folder(what="quantized files and importance matrices", kept_s=None),
        "references": Folder(what="distributions of the references", kept_s=60 * _DAY_S),
        "measurements": Folder(what="chunks and per-token values", kept_s=7 * _DAY_S),
        "tokens": Folder(
            what="per-token values of accepted baselines", kept_s=None, is_made_again=False
        ),
        "chunks": Folder(what="how texts fall into chunks", kept_s=60 * _DAY_S),
        "plans": Folder(what="tensor types of shapes", kept_s=60 * _DAY_S),
        "texts": Folder(what="the texts' bytes", kept_s=60 * _DAY_S),
        "support": Folder(what="which formats engines make", kept_s=60 * _DAY_S),
        "identities": Folder(what="what engines say of themselves", kept_s=60 * _DAY_S),
        "speeds": Folder(
            what="speeds of a machine's last sessions", kept_s=365 * _DAY_S, is_made_again=False
        ),
        "hashes": Folder(what="hashes of files and their tensors", kept_s=365 * _DAY_S),
        "runs": Folder(what="records, events and logs", kept_s=7 * _DAY_S, is_made_again=False),
    }
)
"""All folders of the cache but that of the locks; artifacts go by size instead of age."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A verified file of the cache, and the facts that were stored with it."""

    path: Path
    identity: str
    n_bytes: int
    facts: dict[str, Any]


class Cache:
    """The folder of artifacts, measurements, texts, logs and locks.

    Args:
        folder: where it is; None is the user's cache folder.
        max_bytes: artifacts used longest ago are removed above this.

    """

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        self.folder = folder or cache_folder()
        self._max_bytes = max_bytes
        self.hashes = Hashes(self.folder / "hashes", self.lock)
        self._verified: dict[Path, tuple[FileState, Entry]] = {}

    def sub(self, name: str) -> Path:
        """Return a folder of the cache, made if it is not there."""
        path = self.folder / name
        with environment("cannot make the folder", path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock between processes; it goes with a process that dies."""
        path = self.sub("locks") / f"{name}.lock"
        lock = FileLock(path)
        with environment("cannot lock", path):
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def artifact_path(self, key: str, suffix: str) -> Path:
        """Return where the file of a key is, or will be."""
        return self.sub("artifacts") / f"{key}{suffix}"

    def artifact(
        self,
        key: str,
        suffix: str,
        make: Callable[[Path], dict[str, Any]],
        identify: Callable[[Path], str] | None = None,
    ) -> Entry:
        """Return the file of a key, made by ``make`` if it is not there or not whole.

        Args:
            key: from :func:`~pytest_quantgate.storage.keys.key_of`.
            suffix: the file's ending, with the dot.
            make: writes the file at the path that it is given and returns facts to keep.
            identify: what identifies the file's bytes; by default their SHA-256.

        """
        identify = identify or self.hashes.sha256
        path = self.artifact_path(key, suffix)
        state, entry = self._verified.get(path, (None, None))
        if entry is not None and path.exists() and FileState.of(path) == state:
            return entry
        with self.lock(f"artifact-{key[:32]}"):
            entry = self._read(path, identify)
            if entry is None:
                entry = self._write(path, make, identify)
        self._verified[path] = (FileState.of(path), entry)
        self.evict(keep=set(self._verified))
        return entry

    def text(self, data: bytes, sha256: str) -> Path:
        """Return a file with these bytes, for a worker to read."""
        path = self.sub("texts") / f"{sha256}.txt"
        if not path.is_file() or file_sha256(path) != sha256:
            write_atomically(path, data)
        return path

    def sha256_of(self, path: Path) -> str:
        """Hash a file once; the hash is remembered for as long as the file is unchanged."""
        return self.hashes.sha256(path)

    def is_locked(self, name: str) -> bool:
        """Return whether a process holds a lock; one that a killed process left goes with this."""
        path = self.folder / "locks" / f"{name}.lock"
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                return False
        except OSError:  # another process holds it, or nothing can be locked here
            return True

    def locks(self) -> list[str]:
        """Return the names of the locks that are held, or that killed processes left."""
        return [path.stem for path in _entries(self.folder / "locks") if path.suffix == ".lock"]

    def contents(self) -> dict[str, tuple[int, int]]:
        """Return the number of files and bytes of each folder; unknown ones come last."""
        there = {path.name for path in _entries(self.folder) if path.is_dir()} - {"locks"}
        names = [*FOLDERS, *sorted(there - set(FOLDERS))]
        return {name: _sum_of(self.folder / name) for name in names}

    def clear(self) -> None:
        """Remove what can be made again; per-token values of baselines are kept.

        So are runs that may go on, with their logs.
        """
        self.evict(keep=set(), max_bytes=0)
        for name, folder in FOLDERS.items():
            if folder.is_made_again and name != "artifacts":
                _remove(_entries(self.folder / name))
        _remove(_older(self.folder / "runs", _GOING_ON_S))

    def prune(self) -> None:
        """Remove what nothing will ask for again, and what killed processes left."""
        for name, folder in FOLDERS.items():
            if folder.kept_s is not None:
                _remove(_older(self.folder / name, folder.kept_s))
        _remove(self.leftovers())
        for name in self.locks():
            self.is_locked(name)

    def leftovers(self) -> list[Path]:
        """Return what killed processes left half-written.

        That is an artifact's ``.partial`` under no lock, another's whose process has ended and
        that was not written to for minutes, and what bears no process's number for a day.
        """
        left = []
        for path in sorted(self.folder.rglob("*.partial")):
            number = path.name.split(".")[-2]
            if path.parent.name == "artifacts":
                is_left = not self.is_locked(f"artifact-{path.name[:32]}")
            elif number.isdecimal() and len(number) < _PID_DIGITS:
                # A cache may be shared with another host, whose processes are not seen here.
                is_left = not _is_alive(number) and _is_older(path, _WRITING_S)
            else:
                is_left = _is_older(path, _GOING_ON_S)
            if is_left:
                left.append(path)
        temporary = (path for path in _entries(self.folder / "plans") if path.is_dir())
        return [*left, *(path for path in temporary if _is_older(path, _GOING_ON_S))]

    def note_end(self, run_id: str) -> None:
        """Note that a run came to its end, whatever came out."""
        with contextlib.suppress(OSError):  # its folder may be gone, or the disk full
            (self.folder / "runs" / run_id / _ENDED).touch()

    def killed_runs(self) -> list[Path]:
        """Return the folders of runs that came to no end and of which no process lives.

        A run has a log for each of its processes that used an engine, with the process's number.
        """
        killed = []
        for path in _entries(self.folder / "runs"):
            numbers = [log.stem.rpartition("-")[2] for log in path.glob("logs/*.log")]
            is_over = numbers and not any(_is_alive(number) for number in numbers)
            if is_over and not (path / _ENDED).exists():
                killed.append(path)
        return killed

    def evict(self, keep: set[Path], max_bytes: int | None = None) -> None:
        """Remove artifacts used longest ago until they are within the cache's bound, or another.

        What this run uses is kept, and so is what another process holds the lock of.
        """
        bound = self._max_bytes if max_bytes is None else max_bytes
        folder = self.sub("artifacts")
        files = []
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                if path.suffix not in {".json", ".partial"}:
                    stamp = _stamp_path(path)
                    used = stamp.stat().st_mtime if stamp.exists() else state.st_mtime
                    files.append((used, state.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= bound:
                break
            if path in keep:
                continue
            lock = FileLock(self.sub("locks") / f"artifact-{path.stem[:32]}.lock", timeout=0)
            try:
                with lock:
                    _stamp_path(path).unlink(missing_ok=True)
                    path.unlink(missing_ok=True)
                    total -= size
            except OSError:  # another process holds it, or nothing can be removed here
                continue

    def _read(self, path: Path, identify: Callable[[Path], str]) -> Entry | None:
        stamp = read_json(_stamp_path(path))
        if not path.is_file() or not isinstance(stamp, dict):
            return None
        if stamp.get("version") != STAMP_VERSION or stamp.get("n_bytes") != path.stat().st_size:
            return None
        try:
            if identify(path) != stamp.get("identity"):
                return None
        except ModelFileError:  # damaged where it says what it holds
            return None
        with contextlib.suppress(OSError):  # a cache that is shared and read alone
            os.utime(_stamp_path(path))
        return Entry(
            path=path, identity=stamp["identity"], n_bytes=stamp["n_bytes"], facts=stamp["facts"]
        )

    def _write(
        self,
        path: Path,
        make: Callable[[Path], dict[str, Any]],
        identify: Callable[[Path], str],
    ) -> Entry:
        with environment("cannot make", path):
            _stamp_path(path).unlink(missing_ok=True)
            for old in path.parent.glob(f"{path.stem}.*.partial"):
                old.unlink(missing_ok=True)  # a killed run's: nobody else writes under this lock
            partial = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.partial")
            try:
                facts = make(partial)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        identity, n_bytes = identify(path), path.stat().st_size
        write_json(
            _stamp_path(path),
            {"version": STAMP_VERSION, "identity": identity, "n_bytes": n_bytes, "facts": facts},
        )
        return Entry(path=path, identity=identity, n_bytes=n_bytes, facts=facts)


def _stamp_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder; nothing where there is none."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sum_of(folder: Path) -> tuple[int, int]:
    """Return the number of files below a folder and their bytes."""
    count, n_bytes = 0, 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            if path.is_file():
                n_bytes += path.stat().st_size
                count += 1
    return count, n_bytes


def _older(folder: Path, age_s: float) -> list[Path]:
    """Return what in a folder was last written longer ago."""
    return [path for path in _entries(folder) if _is_older(path, age_s)]


def _is_older(path: Path, age_s: float) -> bool:
    """Return whether a file, or all that is in a folder, was last written longer ago."""
    times = []
    for item in (path, *path.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            times.append(item.stat().st_mtime)
    return max(times, default=time.time()) < time.time() - age_s


def _is_alive(number: str) -> bool:
    """Return whether a process of a number runs."""
    return number.isdecimal() and len(number) < _PID_DIGITS and psutil.pid_exists(int(number))


def _remove(paths: Iterable[Path]) -> None:
    """Remove files and folders as far as they can be."""
    for path in paths:
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
