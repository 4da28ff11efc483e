"""A deadline that holds whatever hangs: an interpreter that never starts, a hub that is silent."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

import psutil

from pytest_quantgate.errors import CellTimeout

T = TypeVar("T")

_AFTERWARDS_S = 3.0


def within(deadline_s: float, work: Callable[[], T]) -> T:
    """Return what ``work`` returns, raise what it raises, or end it at the deadline.

    It runs in a thread; at the deadline the processes that were started since are ended, which
    is what a thread waits for that starts workers. One piece of work at a time.

    Raises:
        CellTimeout: it was not done within ``deadline_s`` seconds.

    """
    before = _children()
    ended: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    results: list[T] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 # handed over, and raised by the one who waits
            ended.put(error)
        else:
            ended.put(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        error = ended.get(timeout=deadline_s)
    except queue.Empty:
        for child in _children() - before:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        thread.join(_AFTERWARDS_S)
        raise CellTimeout(f"no answer within {deadline_s:.0f} s; it was ended") from None
    if error is not None:
        raise error
    return results[0]


def _children() -> set[psutil.Process]:
    """Return the processes that this one started, and theirs."""
    return set(psutil.Process().children(recursive=True))
