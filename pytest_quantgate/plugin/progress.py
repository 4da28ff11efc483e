"""What a person sees while a run lasts: a live line on a terminal, else a line now and then."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import IO

import pytest

from pytest_quantgate.matrix.session import Session
from pytest_quantgate.plugin.suites import CALIBRATION_NODE, MATRIX_NODE
from pytest_quantgate.results.events import (
    CellJudged,
    Copying,
    Event,
    EventLog,
    MeasuringSpeed,
    Quantizing,
    Scoring,
    VaryingConditions,
    WaitingForDevice,
)

_POLL_S = 0.2
_LINE_EVERY_S = 15.0  # how often a log without a terminal gets a line


@dataclass(kw_only=True)
class Position:
    """Where one lane is; ``fraction`` is how much of its cell is done."""

    cell: str = ""
    step: str = ""
    fraction: float = 0.0
    conditions: str = ""
    passes: tuple[int, int] = (0, 1)

    def take(self, event: Event) -> None:
        """Take one event in."""
        self.cell = event.cell
        match event:
            case CellJudged():
                self.fraction, self.conditions, self.passes = 0.0, "", (0, 1)
            case VaryingConditions(name=name, done=done, total=total):
                self.conditions, self.passes = f"{name}, ", (done, total)
            case Scoring(done=done, total=total):
                self.step = f"{self.conditions}chunk {done}/{total}"
                before, passes = self.passes
                self.fraction = (before + done / max(total, 1)) / passes
            case WaitingForDevice(device=device, waited_s=waited_s):
                so_far = f", {_duration(waited_s)} so far" if waited_s >= 1 else ""
                self.step = f"waiting for another measurement on {device}{so_far}"
            case MeasuringSpeed(done=done, total=total):
                self.step = f"speed, process {done} of {max(done, total)} or more"
                self.fraction = min(0.9, done / max(total, 1))
            case Copying(done=done, total=total, host=host):
                self.step = f"{done / 1e6:,.0f}/{total / 1e6:,.0f} MB copied ({host})"
            case Quantizing(done=done, total=total):
                self.step = f"quantizing {done}/{total}" if total else "preparing the file"

    @property
    def text(self) -> str:
        """The cell and its step."""
        return f"{self.cell}: {self.step}"


@dataclass(kw_only=True)
class Tally:
    """What the run's events add up to, by lane; a run without lanes has the one named ""."""

    n_cells: int
    started_s: float
    done: set[str] = field(default_factory=set)
    lanes: dict[str, Position] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        """Take one event in."""
        self.lanes.setdefault(event.lane, Position()).take(event)
        if isinstance(event, CellJudged):
            self.done.add(event.cell)

    def lines(self) -> list[str]:
        """Return the line that says where the run is, and with several lanes one more each."""
        elapsed = time.time() - self.started_s
        finished = len(self.done) + sum(lane.fraction for lane in self.lanes.values())
        left = "time left unknown"
        if finished >= 0.5:
            seconds = elapsed / finished * (self.n_cells - finished)
            left = f"about {_duration(seconds)} left"
        count = f"[{len(self.done)}/{self.n_cells}]"
        named = {name: lane for name, lane in self.lanes.items() if name}
        if not named:
            return [f"{count} {lane.text}, {left}" for lane in self.lanes.values()]
        width = max(map(len, named))
        lines = [f"  {name.ljust(width)}  {lane.text}" for name, lane in named.items()]
        return [f"{count} {left}", *lines]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min"


class Progress:
    """Follows the run's events in a thread and shows them on the real standard output.

    What a test process writes is captured, and under pytest-xdist the tests run in other
    processes; so they append events to a file, and the process with the terminal reads it.
    """

    def __init__(self, events: EventLog, n_cells: int, stream: IO[str]) -> None:
        self._events = events
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._tally = Tally(n_cells=n_cells, started_s=time.time())
        self._n_shown = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    @classmethod
    def start(cls, session: Session) -> Progress:
        """Begin to follow a run."""
        # Captured output goes through descriptor 1; this copy stays the real one.
        real = sys.__stdout__ or sys.stdout
        stream = os.fdopen(os.dup(real.fileno()), "w", encoding="utf-8", buffering=1)
        progress = cls(session.events, len(session.matrix.cells), stream)
        progress._thread.start()
        return progress

    @property
    def started_s(self) -> float:
        """When the run began, in seconds since the epoch."""
        return self._tally.started_s

    def stop(self) -> None:
        """Stop following; what is shown live is wiped."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            self._wipe()
            self._stream.close()

    def test_status(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Return no letter for a built-in test: its line with the figures stands for it."""
        if report.when == "call" and report.nodeid.startswith((MATRIX_NODE, CALIBRATION_NODE)):
            verbose = {"passed": "PASSED", "failed": "FAILED", "skipped": "SKIPPED"}
            return report.outcome, "", verbose.get(report.outcome, report.outcome)
        return None

    def _follow(self) -> None:
        position = 0
        last_line_s = time.time()
        while not self._stop.wait(_POLL_S):
            news, position = self._events.read(position)
            for event in news:
                self._tally.take(event)
            if not news:
                continue
            if self._is_terminal:
                self._wipe()
                columns = shutil.get_terminal_size().columns
                shown = [line[: columns - 1] for line in self._tally.lines()]
                self._n_shown = len(shown)
                self._stream.write("\n".join(shown))
                self._stream.flush()
            elif time.time() - last_line_s >= _LINE_EVERY_S:
                last_line_s = time.time()
                self._stream.write("\n" + "\n".join(self._tally.lines()) + "\n")
                self._stream.flush()

    def _wipe(self) -> None:
        """Wipe the lines that are shown; the cursor stands where the first of them began."""
        if self._is_terminal:
            above = max(0, self._n_shown - 1)
            self._stream.write("\r\x1b[K" + "\x1b[A\r\x1b[K" * above)
            self._stream.flush()
            self._n_shown = 0
