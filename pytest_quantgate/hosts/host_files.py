"""A run's files on a host: found there by content, or copied once."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path

from pytest_quantgate.errors import CellError, HostLost
from pytest_quantgate.hosts.link import HostLink
from pytest_quantgate.storage.atomic import write_atomically
from pytest_quantgate.storage.environment import environment

_BLOCK = 1 << 22
_BUSY_EVERY_S = 1.0
_ATTEMPTS = 2
_SPLIT = re.compile(r"(.+)-00001-of-(\d{5})\.gguf")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}")
_MOST_REFERENCE_BYTES = 1 << 36

OnCopy = Callable[[str, int, int], None]
"""Given a file's name, and how many of its bytes are there."""


class HostFiles:
    """Brings files to a host and back.

    Args:
        link: the host.
        sha256_of: hashes a file here, and remembers it.
        on_copy: takes the progress.

    """

    def __init__(self, link: HostLink, sha256_of: Callable[[Path], str], on_copy: OnCopy) -> None:
        self._link = link
        self._sha256_of = sha256_of
        self._on_copy = on_copy
        self._there: dict[str, str] = {}

    def put(self, path: Path) -> str:
        """Return where a file is on the host; a model that is split brings its other files."""
        split = _SPLIT.fullmatch(path.name)
        if split is None:
            return self._put(path)
        count = int(split[2])
        names = [f"{split[1]}-{n:05d}-of-{split[2]}.gguf" for n in range(1, count + 1)]
        paths = tuple(self._put(path.with_name(name)) for name in names)
        return self._link.ask(str, "gather", paths)

    def _put(self, path: Path) -> str:
        sha256 = self._sha256_of(path)
        key = f"{sha256}/{path.name}"
        if key not in self._there:
            size = path.stat().st_size
            found = self._link.ask(str, "find", sha256, size, path.name)
            self._there[key] = found or self._copy(path, sha256, size)
        return self._there[key]

    def _copy(self, path: Path, sha256: str, size: int) -> str:
        for _ in range(_ATTEMPTS):
            done = self._link.ask(int, "begin", sha256, size, path.name)
            while done < 0:  # another run copies it
                time.sleep(_BUSY_EVERY_S)
                there = self._link.ask(str, "find", sha256, size, path.name)
                if there:
                    return there
                done = self._link.ask(int, "begin", sha256, size, path.name)
            with environment("cannot read", path), path.open("rb") as stream:
                stream.seek(done)
                while block := stream.read(_BLOCK):
                    done += self._link.ask(int, "write", block)
                    self._on_copy(path.name, done, size)
            kept = self._link.ask(str, "finish")
            if kept:
                return kept
        raise CellError(
            f"host {self._link.label!r}: {path.name} arrived damaged twice; check that machine's"
            " disk and memory"
        )

    def fetch(self, there: str, path: Path) -> None:
        """Bring a file that was made on the host here, and check its content."""
        kept, sha256, size = self._made(there, path.name)
        partial = path.with_name(f"{path.name}.copy")
        try:
            with environment("cannot write", path), partial.open("wb") as stream:
                self._read(kept, size, path.name, stream.write)
            if self._sha256_of(partial) != sha256:
                raise HostLost(f"host {self._link.label!r}: {path.name} came back damaged")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        self._there[f"{sha256}/{path.name}"] = kept

    def _made(self, there: str, name: str) -> tuple[str, str, int]:
        answer = self._link.ask(tuple, "adopt", there, name)
        match answer:
            case (str(kept), str(sha256), int(size)):
                return kept, sha256, size
        raise HostLost(f"host {self._link.label!r} told no file of what it made; it is left")

    def _read(self, there: str, size: int, name: str, take: Callable[[bytes], object]) -> None:
        done = 0
        while done < size:
            block = self._link.ask(bytes, "read", there, done, min(_BLOCK, size - done))
            if not block or len(block) > _BLOCK:
                raise HostLost(f"host {self._link.label!r}: {name} ended early")
            take(block)
            done += len(block)
            self._on_copy(name, done, size)

    def push_folder(self, folder: Path) -> str:
        """Bring a reference's folder to the host, as far as it is not there; return where."""
        there = self._link.ask(str, "reference", folder.name)
        present = self._listing(there)
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            sha256 = self._sha256_of(path) if path.is_file() else None
            if sha256 is not None and present.get(path.name, (0, ""))[1] != sha256:
                self._link.ask(str, "place", self._put(path), there, path.name)
                del self._there[f"{sha256}/{path.name}"]
        return there

    def pull_folder(self, there: str, folder: Path) -> None:
        """Bring what the host wrote into a reference's folder here; what marks it whole, last."""
        rows = sorted(self._listing(there).items(), key=lambda row: row[0].endswith(".json"))
        for name, (size, sha256) in rows:
            path = folder / name
            if path.is_file() and self._sha256_of(path) == sha256:
                continue
            blocks: list[bytes] = []
            self._read(f"{there}/{name}", size, name, blocks.append)
            write_atomically(path, b"".join(blocks))

    def _listing(self, there: str) -> dict[str, tuple[int, str]]:
        rows: dict[str, tuple[int, str]] = {}
        for row in self._link.ask(tuple, "listing", there):
            match row:
                case (str(name), int(size), str(sha256)) if (
                    _PLAIN_NAME.fullmatch(name) and 0 <= size <= _MOST_REFERENCE_BYTES
                ):
                    rows[name] = size, sha256
                case _:
                    raise HostLost(f"host {self._link.label!r} lists what is no file; it is left")
        return rows

    def tail(self, there: str, offset: int) -> bytes:
        """Return what a log there has from a byte on; nothing where the host is gone."""
        with contextlib.suppress(CellError):
            return self._link.ask(bytes, "read", there, offset, 1 << 16)
        return b""
