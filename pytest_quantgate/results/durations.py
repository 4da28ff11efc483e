"""Where a cell's time went: seconds by stage, each counted once."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = (
    "hashing",
    "quantizing",
    "collecting",
    "waiting",
    "loading",
    "decoding",
    "scoring",
    "routing",
    "batch_geometry",
    "compare_devices",
    "speed",
    "memory",
    "judging",
)
"""Stages in the order of a cell's way; ``judging`` is all that is none of the others.

``waiting`` is for a device that another process computes on. What a GPU computes meanwhile is
decoding, and scoring is only what decoding waited for.
"""


class Stopwatch:
    """Charges the time that passes to the innermost stage that was entered; for one thread."""

    def __init__(self) -> None:
        self._stages: list[str] = []
        self._seconds: dict[str, float] = defaultdict(float)
        self._since_s = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Charge what passes in this context to a stage, less the stages within it."""
        self._charge()
        self._stages.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stages.pop()

    def move(self, name: str, seconds_s: float) -> None:
        """Charge some of the time of the present stage to another one."""
        self._charge()
        self._seconds[self._stages[-1]] -= seconds_s
        self._seconds[name] += seconds_s

    def take(self) -> dict[str, float]:
        """Return the seconds since the last call by stage, in the order of :data:`STAGES`."""
        self._charge()
        taken = {name: self._seconds[name] for name in sorted(self._seconds, key=_place)}
        self._seconds.clear()
        return taken

    def _charge(self) -> None:
        now_s = time.perf_counter()
        if self._stages:
            self._seconds[self._stages[-1]] += now_s - self._since_s
        self._since_s = now_s


def sum_durations(*durations: dict[str, float]) -> dict[str, float]:
    """Add seconds up, stage by stage."""
    total: dict[str, float] = defaultdict(float)
    for item in durations:
        for name, taken_s in item.items():
            total[name] += taken_s
    return {name: total[name] for name in sorted(total, key=_place)}


def _place(name: str) -> int:
    return STAGES.index(name) if name in STAGES else len(STAGES)
