"""What the machine lets a run do: its disks, rights, users and home folders.

Whoever meets such an error says so here, in one line, as the one class that no format's being
optional excuses.
"""

from __future__ import annotations

import errno
import getpass
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

from pytest_quantgate.errors import EnvironmentProblem

_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextmanager
def environment(doing: str, path: Path) -> Iterator[None]:
    """Raise what the system refuses as one line that says what to do.

    Args:
        doing: what is done, as in "cannot write".
        path: the file or folder that it is done to.

    Raises:
        EnvironmentProblem: the system refused.

    """
    try:
        yield
    except OSError as error:
        raise EnvironmentProblem(
            f"{doing} {path}: {error.strerror}; {_remedy(error, path)}"
        ) from error


def _remedy(error: OSError, path: Path) -> str:
    if error.errno in _FULL:
        return f"{describe_free(path)}; free some, or name another cache with --quant-cache DIR"
    if error.errno in _FORBIDDEN:
        return (
            f"{user_name()} may not write there; change its owner or rights, or name another"
            " cache with --quant-cache DIR"
        )
    return "check the disk and the folder, or name another cache with --quant-cache DIR"


def free_bytes(path: Path) -> int:
    """Return the bytes that this user may still write to a path's disk."""
    folder = next(parent for parent in (path, *path.parents) if parent.exists())
    return shutil.disk_usage(folder).free


def describe_free(path: Path) -> str:
    """Describe how much of a path's disk is free."""
    return f"{free_bytes(path) / 1e6:,.1f} MB are free on its disk"


def user_name() -> str:
    """Return the user's name; a container's user may have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"uid-{os.getuid()}" if hasattr(os, "getuid") else "user"


def cache_folder() -> Path:
    """Return the folder of the user's cache.

    Raises:
        EnvironmentProblem: the user has no home folder.

    """
    try:
        folder = user_cache_path("pytest-quantgate", appauthor=False)
    except RuntimeError:  # as Path.home()
        folder = Path()
    if not folder.is_absolute() or "~" in folder.parts:
        raise EnvironmentProblem(
            f"there is no folder for the cache: {user_name()} has no home folder; set HOME or"
            " XDG_CACHE_HOME, or name a cache with --quant-cache DIR"
        )
    return folder


def temporary_folder() -> Path:
    """Return the folder for temporary files.

    Raises:
        EnvironmentProblem: nothing can be written to any of the usual ones.

    """
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise EnvironmentProblem(
            "there is no folder for temporary files that can be written to; set TMPDIR"
        ) from error


def path_below(root: Path, text: str) -> Path:
    """Return the path that a setting names, below a folder unless it is absolute.

    Raises:
        EnvironmentProblem: it begins with ``~`` and there is no home folder, or its name is not
            of UTF-8, as records and llama.cpp want it.

    """
    try:
        path = root / Path(text).expanduser()
        str(path).encode()
    except UnicodeEncodeError as error:
        raise EnvironmentProblem(
            f"the path {os.fsencode(path)!r} is not of UTF-8; rename the file or folder"
        ) from error
    except RuntimeError as error:
        raise EnvironmentProblem(
            f"the path {text!r} is in a home folder, and {user_name()} has none; set HOME, or"
            " write the whole path"
        ) from error
    return path
