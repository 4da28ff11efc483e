"""Processors of this host: how many threads to use, and who may compute now."""

from __future__ import annotations

import getpass
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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


def device_names(backend: str) -> tuple[str, ...]:
    """Return the devices of a backend: one, or several as in ``CUDA0,CUDA1``."""
    return tuple(name.strip() for name in backend.split(","))


def device_kind(backend: str) -> str:
    """Return a backend's kind: ``cpu``, or its devices' names without numbers, as ``cuda``."""
    kinds = (name.rstrip("0123456789").lower() for name in device_names(backend))
    return "-".join(dict.fromkeys(kinds))


WAIT_TOLD_EVERY_S = 30.0
"""How often a process that waits for a device says so."""


@contextmanager
def hold_device(backend: str, on_wait: Callable[[float], None] | None = None) -> Iterator[None]:
    """Keep every other measurement of this user on this host off a backend's devices.

    The lock is outside the cache: two runs with caches of their own share the processor.
    ``on_wait`` is called if a device is not free at once, and from time to time while it is
    not, with the seconds waited.
    """
    folder = Path(tempfile.gettempdir()) / f"pytest-quantgate-{getpass.getuser()}"
    folder.mkdir(exist_ok=True)
    began_s = time.monotonic()
    with ExitStack() as stack:
        for device in sorted(device_names(backend)):  # in one order, so that nobody waits in a ring
            lock = FileLock(folder / f"device-{device}.lock")
            _acquire(lock, began_s, on_wait)
            stack.callback(lock.release)
        yield


def _acquire(lock: FileLock, began_s: float, on_wait: Callable[[float], None] | None) -> None:
    patience_s = 0.0
    while True:
        try:
            lock.acquire(timeout=patience_s)
        except Timeout:
            if on_wait is not None:
                on_wait(time.monotonic() - began_s)
            patience_s = WAIT_TOLD_EVERY_S
        else:
            return
