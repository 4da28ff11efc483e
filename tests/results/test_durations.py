"""Time is charged to one stage at once."""

from __future__ import annotations

import pytest

from pytest_quantgate.results.durations import Stopwatch, sum_durations


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def test_the_innermost_stage_is_charged(clock: list[float]) -> None:
    """What an engine says that a part of it took is moved, not counted twice."""
    watch = Stopwatch()
    with watch.stage("judging"):
        clock[0] += 1
        with watch.stage("decoding"):
            clock[0] += 10
            watch.move("loading", 4)
        clock[0] += 2
    clock[0] += 50
    assert watch.take() == {"loading": 4, "decoding": 6, "judging": 3}
    with watch.stage("judging"):
        clock[0] += 5
    assert watch.take() == {"judging": 5}


def test_durations_are_added_stage_by_stage() -> None:
    """In the order of a cell's way."""
    total = sum_durations({"judging": 1.0, "loading": 2.0}, {"hashing": 3.0, "judging": 0.5})
    assert list(total.items()) == [("hashing", 3.0), ("loading", 2.0), ("judging", 1.5)]
