"""The line that says where a run is."""

from __future__ import annotations

import time

from pytest_quantgate.plugin.progress import Tally


def tally(elapsed_s: float) -> Tally:
    """Return a tally of four cells, begun some time ago."""
    return Tally(n_cells=4, started_s=time.time() - elapsed_s)


def test_it_names_the_cell_the_chunk_and_the_time_left() -> None:
    seen = tally(60)
    seen.take({"event": "cell", "cell": "m-F16-cpu"})
    seen.take({"event": "quantize", "cell": "m-F16-cpu", "done": 0, "total": 0})
    assert seen.line() == "[0/4] m-F16-cpu: preparing the file, time left unknown"
    seen.take({"event": "quantize", "cell": "m-F16-cpu", "done": 3, "total": 21})
    assert "quantizing 3/21" in seen.line()
    seen.take({"event": "score", "cell": "m-F16-cpu", "done": 8, "total": 16})
    assert seen.line() == "[0/4] m-F16-cpu: chunk 8/16, about 7 min left"
    seen.take({"event": "done", "cell": "m-F16-cpu", "verdict": "PASS"})
    assert seen.line().startswith("[1/4] m-F16-cpu: ")
    assert seen.line().endswith("about 3 min left")


def test_a_cell_that_is_done_twice_counts_once() -> None:
    seen = tally(10)
    for _ in range(2):
        seen.take({"event": "done", "cell": "m-F16-cpu"})
    assert seen.line().startswith("[1/4]")
    assert seen.line().endswith("about 30 s left")
