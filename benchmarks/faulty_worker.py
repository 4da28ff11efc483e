"""A worker of the plugin that fails at the second chunk of some files.

Sent to the worker process in place of its own loop: the stem of the model's file says which fault.
Imports the standard library and the worker's own modules alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_quantgate.engines.worker import serve as honest

FAULTS = ("worker-aborts", "worker-hangs", "worker-talks-nonsense")


class FaultyChannel:
    """Passes messages on, but for the second scored chunk of a file with a fault's name."""

    def __init__(self, channel: honest.Channel) -> None:
        self._channel = channel
        self._model = ""
        self._chunks = 0

    def __iter__(self) -> Iterator[object]:
        for item in self._channel:
            kind, fields = item
            if kind == "Score":
                self._model, self._chunks = Path(fields["model"]).stem, 0
            yield item

    def send(self, item: object) -> None:
        """Send a message, or fail."""
        if isinstance(item, tuple) and item[0] == "ScoredChunk":
            self._chunks += 1
            if self._chunks == 2:
                self._fail()
        self._channel.send(item)

    def _fail(self) -> None:
        if self._model == "worker-aborts":
            os.abort()
        if self._model == "worker-hangs":
            time.sleep(3600)
        if self._model == "worker-talks-nonsense":
            self._channel.send(["what", 3.5, None])


def serve(channel: honest.Channel) -> None:
    """Serve as the worker does."""
    honest.serve(FaultyChannel(channel))
