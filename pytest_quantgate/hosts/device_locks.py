"""Who may compute now: this host's devices, held by one process at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from filelock import FileLock, Timeout

from pytest_quantgate.engines.messages.placement import CPU, read_placement
from pytest_quantgate.errors import EnvironmentProblem
from pytest_quantgate.storage.environment import environment, temporary_folder, user_name

WAIT_TOLD_EVERY_S = 30.0
"""How often a process that waits for a device says so."""


@contextmanager
def hold_device(
    device: str,
    on_wait: Callable[[float], None] | None = None,
    *,
    cpus: Sequence[int] = (),
    host: str | None = None,
) -> Iterator[None]:
    """Keep every other measurement of this user off a placement's devices.

    The lock is outside the cache: two runs with caches of their own share the processor.

    Args:
        device: the placement, as a message carries it.
        on_wait: called if a device is not free at once, and from time to time while it is not,
            with the seconds waited.
        cpus: of the processor only these are used; empty is all of them.
        host: the label of another machine whose devices these are; this holds off the runs of
            this machine alone.

    """
    folder = temporary_folder() / f"pytest-quantgate-{user_name()}"
    with environment("cannot make the folder", folder):
        folder.mkdir(exist_ok=True)
    began_s = time.monotonic()
    with ExitStack() as stack:
        # In one order, so that nobody waits in a ring.
        for name in sorted(_lock_names(read_placement(device).names, cpus)):
            lock = FileLock(folder / f"device-{f'{host}-' if host else ''}{name}.lock")
            _acquire(lock, began_s, on_wait)
            stack.callback(lock.release)
        yield


def _lock_names(names: Sequence[str], cpus: Sequence[int]) -> Iterator[str]:
    """Return the names of the locks: the whole processor's are also those of each of its cores."""
    for name in names:
        if name != CPU or not cpus:
            yield name
        if name == CPU:
            for number in cpus or range(os.cpu_count() or 1):
                yield f"{CPU}-{number}"


def _acquire(lock: FileLock, began_s: float, on_wait: Callable[[float], None] | None) -> None:
    patience_s = 0.0
    while True:
        try:
            lock.acquire(timeout=patience_s)
        except Timeout:
            if on_wait is not None:
                on_wait(time.monotonic() - began_s)
            patience_s = WAIT_TOLD_EVERY_S
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot lock {lock.lock_file}: {error.strerror}; remove the file, or set TMPDIR"
            ) from error
        else:
            return
