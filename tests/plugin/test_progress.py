"""The line that says where a run is."""

from __future__ import annotations

import time
from pathlib import Path

from pytest_quantgate.plugin.progress import Tally
from pytest_quantgate.results.events import (
    CellJudged,
    CellStarted,
    EventLog,
    Quantizing,
    Scoring,
    WaitingForDevice,
)

CELL = "m-F16-cpu"


def tally(elapsed_s: float) -> Tally:
    """Return a tally of four cells, begun some time ago."""
    return Tally(n_cells=4, started_s=time.time() - elapsed_s)


def test_it_names_the_cell_the_chunk_and_the_time_left() -> None:
    seen = tally(60)
    seen.take(CellStarted(cell=CELL))
    seen.take(Quantizing(cell=CELL, done=0, total=0))
    assert seen.lines()[0] == "[0/4] m-F16-cpu: preparing the file, time left unknown"
    seen.take(Quantizing(cell=CELL, done=3, total=21))
    assert "quantizing 3/21" in seen.lines()[0]
    seen.take(Scoring(cell=CELL, done=8, total=16))
    assert seen.lines()[0] == "[0/4] m-F16-cpu: chunk 8/16, about 7 min left"
    seen.take(CellJudged(cell=CELL, verdict="PASS"))
    assert seen.lines()[0].startswith("[1/4] m-F16-cpu: ")
    assert seen.lines()[0].endswith("about 3 min left")


def test_a_cell_that_is_done_twice_counts_once() -> None:
    seen = tally(10)
    for _ in range(2):
        seen.take(CellJudged(cell=CELL, verdict="PASS"))
    assert seen.lines()[0].startswith("[1/4]")
    assert seen.lines()[0].endswith("about 30 s left")


def test_each_lane_has_a_line() -> None:
    seen = tally(60)
    seen.take(Scoring(cell=CELL, done=8, total=16, lane="gpu:CUDA0"))
    seen.take(Quantizing(cell="m-Q8_0-cpu", done=0, total=0, lane="cpu:cpu"))
    seen.take(CellJudged(cell="m-Q4_0-cpu", verdict="PASS", lane="gpu:CUDA0"))
    seen.take(Scoring(cell=CELL, done=8, total=16, lane="gpu:CUDA0"))
    assert seen.lines() == [
        "[1/4] about 2 min left",
        "  gpu:CUDA0  m-F16-cpu: chunk 8/16",
        "  cpu:cpu    m-Q8_0-cpu: preparing the file",
    ]


def test_an_event_says_which_lane_it_happened_on(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path, "gpu:CUDA0").append(CellStarted(cell=CELL))
    EventLog(path).append(CellStarted(cell=CELL))
    events, _ = EventLog(path).read(0)
    assert [event.lane for event in events] == ["gpu:CUDA0", ""]


def test_events_are_read_as_they_were_written(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    assert log.read(0) == ([], 0)
    events = [Scoring(cell=CELL, done=1, total=2), CellJudged(cell=CELL, verdict="PASS")]
    for event in events:
        log.append(event)
    read, position = log.read(0)
    assert read == events
    log.append(WaitingForDevice(cell=CELL, device="cpu", waited_s=3.0))
    with log.path.open("a", encoding="utf-8") as stream:
        stream.write('{"event": "half a li')
    (last,), _ = log.read(position)
    assert isinstance(last, WaitingForDevice)
