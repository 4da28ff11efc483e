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

from pytest_quantgate.worker.placement import Placement, read_placement


def default_threads() -> int:
    """Return the number of physical cores that this process may use."""
    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        usable = os.cpu_count() or 1
    return max(1, min(physical, usable))


def device_kind(placement: Placement) -> str:
    """Return what two qualities must share of where they were computed.

    ``cpu``, or the devices' names without numbers, as ``cuda``; and what else changes the sums:
    a part of the layers, rows split over devices, weights that are not repacked.
    """
    parts = [name.rstrip("0123456789").lower() for name in placement.names]
    if placement.n_gpu_layers is not None:
        parts.append(f"{placement.n_gpu_layers}-layers")
    if placement.split_mode != "layer":
        parts.append(placement.split_mode)
    if not placement.repack:
        parts.append("not-repacked")
    return "-".join(dict.fromkeys(parts))


WAIT_TOLD_EVERY_S = 30.0
"""How often a process that waits for a device says so."""


@contextmanager
def hold_device(device: str, on_wait: Callable[[float], None] | None = None) -> Iterator[None]:
    """Keep every other measurement of this user on this host off a placement's devices.

    The lock is outside the cache: two runs with caches of their own share the processor.
    ``on_wait`` is called if a device is not free at once, and from time to time while it is
    not, with the seconds waited.
    """
    folder = Path(tempfile.gettempdir()) / f"pytest-quantgate-{getpass.getuser()}"
    folder.mkdir(exist_ok=True)
    began_s = time.monotonic()
    with ExitStack() as stack:
        # In one order, so that nobody waits in a ring.
        for name in sorted(read_placement(device).names):
            lock = FileLock(folder / f"device-{name}.lock")
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
