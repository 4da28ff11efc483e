"""Threads that share a row-wise computation: numpy lets go of the interpreter's lock meanwhile.

Each block of rows is computed as one thread alone would do it, so that results are the same to
the last bit, however many threads there are.

Runs in the worker alone: standard library.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

MAX_THREADS = 32
"""Beyond these memory is the limit."""

MAX_SPANS = 8
"""Threads that go through rows in short steps: more would wait for the interpreter's lock."""

ItemT = TypeVar("ItemT")


def usable_cores() -> int:
    """Return the number of processors that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


class Threads:
    """A pool of threads, by default one a processor; end them with :meth:`close`.

    Attributes:
        n_threads: how many there are.

    """

    def __init__(self, n_threads: int | None = None) -> None:
        self.n_threads = n_threads or min(usable_cores(), MAX_THREADS)
        self._pool = ThreadPoolExecutor(self.n_threads) if self.n_threads > 1 else None

    def each(self, work: Callable[[ItemT], None], items: Sequence[ItemT]) -> None:
        """Do the work for each item, and raise the first error of any."""

        def run(first: int) -> None:
            for item in items[first :: self.n_threads]:
                work(item)

        if self._pool is None or len(items) < 2:
            for item in items:
                work(item)
        else:
            list(self._pool.map(run, range(min(self.n_threads, len(items)))))

    def spread(self, work: Callable[[slice], None], count: int) -> None:
        """Do the work for consecutive rows, each thread for one span of them."""
        n_spans = min(self.n_threads, MAX_SPANS, count)
        edges = [count * number // n_spans for number in range(n_spans + 1)] if n_spans else []
        self.each(work, [slice(*pair) for pair in pairwise(edges)])

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
