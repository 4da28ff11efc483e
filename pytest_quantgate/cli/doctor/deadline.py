"""A deadline that holds whatever hangs: an interpreter that never starts, a hub that is silent."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import psutil

from pytest_quantgate.errors import CellTimeout

T = TypeVar("T")

_AFTERWARDS_S = 3.0


def within(deadline_s: float, work: Callable[[], T]) -> T:
    """Return what ``work`` returns, raise what it raises, or end it at the deadline.

    It runs in a thread (no executor's: those are waited for at exit); at the deadline the processes
    that were started since are killed, which a thread that starts workers waits for. One piece of
    work at a time.

    Raises:
        CellTimeout: it was not done within ``deadline_s`` seconds.

    """
    before = _children()
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001 # handed over to the one who waits
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(deadline_s)
    if not future.done():
        for child in _children() - before:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        thread.join(_AFTERWARDS_S)
        raise CellTimeout(f"no answer within {deadline_s:.0f} s; it was ended")
    return future.result()


def _children() -> set[psutil.Process]:
    """Return the processes that this one started, and theirs."""
    return set(psutil.Process().children(recursive=True))
