"""Processors of this host: how many threads to use, and who may compute now."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout


def default_threads() -> int:
    """Return the number of physical cores that this process may use."""
    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        usable = os.cpu_count() or 1
    return max(1, min(physical, usable))


@contextmanager
def hold_device(device: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Keep every other measurement of this user on this host off a device.

    The lock is outside the cache: two runs with caches of their own share the processor.
    ``on_wait`` is called if the device is not free at once.
    """
    folder = Path(tempfile.gettempdir()) / f"pytest-quantgate-{getpass.getuser()}"
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / f"device-{device}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if on_wait is not None:
            on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
