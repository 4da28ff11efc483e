"""Processors of this host: how many threads to use, and who may compute now."""

from __future__ import annotations

import getpass
import os
import tempfile
import time
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


WAIT_TOLD_EVERY_S = 30.0
"""How often a process that waits for a device says so."""


@contextmanager
def hold_device(device: str, on_wait: Callable[[float], None] | None = None) -> Iterator[None]:
    """Keep every other measurement of this user on this host off a device.

    The lock is outside the cache: two runs with caches of their own share the processor.
    ``on_wait`` is called if the device is not free at once, and from time to time while it is
    not, with the seconds waited.
    """
    folder = Path(tempfile.gettempdir()) / f"pytest-quantgate-{getpass.getuser()}"
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / f"device-{device}.lock")
    began_s, patience_s = time.monotonic(), 0.0
    while True:
        try:
            lock.acquire(timeout=patience_s)
            break
        except Timeout:
            if on_wait is not None:
                on_wait(time.monotonic() - began_s)
            patience_s = WAIT_TOLD_EVERY_S
    try:
        yield
    finally:
        lock.release()
