"""Reads a repository through git's plumbing; nothing is written."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_quantgate.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A commit: its full id, when it was committed (ISO 8601), and its first line."""

    id: str
    when: str
    subject: str

    @property
    def short_id(self) -> str:
        """The first digits, enough for git and for a reader."""
        return self.id[:9]


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """A file at a commit; ``blob`` is the id of its content, "" where the commit removed it."""

    commit: Commit
    path: str
    blob: str


def git(folder: Path, *arguments: str, given: bytes | None = None) -> bytes:
    """Return what git prints.

    Raises:
        ConfigError: git is not installed, or it failed; with its last line.

    """
    done = _run(folder, arguments, given)
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().splitlines()
        raise ConfigError(f"git {arguments[0]}: {why[-1] if why else 'failed'}")
    return done.stdout


def git_if_any(folder: Path, *arguments: str) -> bytes:
    """Return what git prints, nothing where it fails."""
    done = _run(folder, arguments, None)
    return b"" if done.returncode else done.stdout


def _run(
    folder: Path, arguments: Iterable[str], given: bytes | None
) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("git")
    if program is None:
        raise ConfigError("git is not installed: baselines of the past are read with it")
    return subprocess.run(
        [program, "-C", str(folder), *arguments],
        input=given,
        capture_output=True,
        check=False,
        # A repository's own alias for a pager or a filter has no say in what plumbing prints.
        env={**os.environ, "GIT_PAGER": "cat", "GIT_OPTIONAL_LOCKS": "0"},
    )


def is_shallow(folder: Path) -> bool:
    """Return whether the clone lacks commits of the past."""
    return git(folder, "rev-parse", "--is-shallow-repository").strip() == b"true"


def file_changes(folder: Path, revision: str = "HEAD") -> tuple[FileChange, ...]:
    """Return what the commits of a branch did to the files below a folder, oldest first.

    A merge counts as one commit of the branch that it was merged into. Paths are relative to the
    folder.
    """
    options = ("--first-parent", "--diff-merges=first-parent", "--reverse", "--relative")
    raw = ("--raw", "--no-renames", "--no-abbrev", "-z", "--format=%x01%H%x00%cI%x00%s%x00")
    printed = git(folder, "log", *options, *raw, revision, "--", ".")
    changes: list[FileChange] = []
    for entry in printed.decode("utf-8", errors="replace").split("\x01")[1:]:
        commit_id, when, subject, *rest = entry.split("\x00")
        commit = Commit(id=commit_id, when=when, subject=subject)
        words = [word.strip("\n") for word in rest if word.strip("\n")]
        for status, path in zip(words[::2], words[1::2], strict=True):
            blob = status.split()[3]
            is_removed = not blob.strip("0")
            changes.append(FileChange(commit=commit, path=path, blob="" if is_removed else blob))
    return tuple(changes)


def read_blobs(folder: Path, blobs: Iterable[str]) -> Mapping[str, bytes]:
    """Return the contents of blobs, all by one process."""
    names = tuple(dict.fromkeys(blobs))
    printed = git(folder, "cat-file", "--batch", given="".join(f"{n}\n" for n in names).encode())
    contents: dict[str, bytes] = {}
    at = 0
    for name in names:
        end = printed.index(b"\n", at)
        header = printed[at:end].split()
        if len(header) != 3 or header[1] != b"blob":
            raise ConfigError(f"git cat-file: {printed[at:end].decode(errors='replace')}")
        size = int(header[2])
        contents[name] = printed[end + 1 : end + 1 + size]
        at = end + size + 2
    return contents
