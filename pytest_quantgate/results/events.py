"""What happens in a run: its processes append it to a file, the one with the terminal reads it.

An event is one JSON line: the name of its class and its fields.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

from pytest_quantgate.storage.environment import environment


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in a cell; ``time_s`` is in seconds since the epoch.

    ``lane`` is where, "" in a run that has no lanes.
    """

    kinds: ClassVar[dict[str, type[Event]]] = {}

    cell: str
    time_s: float = field(default_factory=time.time)
    lane: str = ""

    def __init_subclass__(cls) -> None:
        Event.kinds[cls.__name__] = cls


@dataclass(frozen=True, kw_only=True)
class CellStarted(Event):
    """The gate began with a cell."""


@dataclass(frozen=True, kw_only=True)
class CellJudged(Event):
    """The gate is through with a cell."""

    verdict: str


@dataclass(frozen=True, kw_only=True)
class Steps(Event):
    """So many of a number of steps are done; a ``total`` of 0 is not known yet."""

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Quantizing(Steps):
    """Tensors of the cell's file were quantized."""


@dataclass(frozen=True, kw_only=True)
class Copying(Steps):
    """Bytes of a file, which stands for the cell, went to a host or came from it."""

    host: str


@dataclass(frozen=True, kw_only=True)
class CollectingImatrix(Steps):
    """Chunks went into the cell's importance matrix."""


@dataclass(frozen=True, kw_only=True)
class Scoring(Steps):
    """Chunks of the text were scored."""


@dataclass(frozen=True, kw_only=True)
class MeasuringSpeed(Steps):
    """Processes that measure speed have ended."""


@dataclass(frozen=True, kw_only=True)
class VaryingConditions(Steps):
    """The text is scored under other conditions."""

    name: str


@dataclass(frozen=True, kw_only=True)
class WaitingForDevice(Event):
    """Another measurement has the device."""

    device: str
    waited_s: float


@dataclass(frozen=True, kw_only=True)
class HostGivenUp(Event):
    """Nothing more is measured on a lane's host; no cell is meant."""

    reason: str


class EventLog:
    """A run's events in a file; ``lane`` is where those that are appended happen."""

    def __init__(self, path: Path, lane: str = "") -> None:
        self.path = path
        self._lane = lane

    def append(self, event: Event) -> None:
        """Append an event; lines of several processes do not mix."""
        fields = asdict(event) | ({"lane": self._lane} if self._lane else {})
        line = json.dumps({"event": type(event).__name__, **fields})
        with (
            environment("cannot write", self.path),
            self.path.open("a", encoding="utf-8") as stream,
        ):
            stream.write(line + "\n")

    def read(self, position: int) -> tuple[list[Event], int]:
        """Return the events from a position in the file on, and where the next ones begin.

        A line that a full disk or a kill cut off, and what was written behind it, is left out.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(position)
                data = stream.read()
        except FileNotFoundError:
            return [], position
        whole = data[: data.rfind(b"\n") + 1]
        events = [event for line in whole.splitlines() if (event := _event(line)) is not None]
        return events, position + len(whole)


def _event(line: bytes) -> Event | None:
    try:
        plain = json.loads(line)
    except ValueError:
        return None
    kind = Event.kinds[str(plain.pop("event"))]
    return kind(**plain)
