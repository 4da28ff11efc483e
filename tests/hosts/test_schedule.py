"""Which lane takes which job, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError

import pytest

from pytest_quantgate.errors import HostLost
from pytest_quantgate.hosts.lanes import Lane
from pytest_quantgate.hosts.schedule import Job, Schedule

WAIT_S = 20.0


class Desk:
    """What a lane works with here: it remembers the thread that opened it."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.thread = threading.current_thread()
        self.closed = threading.Event()
        self.lost: HostLost | None = None

    def close(self) -> None:
        """Let whoever waits here go on."""
        self.closed.set()


def lane(name: str, *devices: str) -> Lane:
    """Return a lane of some devices."""
    return Lane(name=name, backends=dict.fromkeys(devices or (name,), (name,)))


def job(device: str, group: str, work: Callable[[Desk], object] | None = None) -> Job[Desk]:
    """Return a job whose result is the name of its lane."""
    return Job(device=device, group=group, work=work or (lambda desk: desk.lane.name))


def test_jobs_run_beside_each_other_on_the_lanes_of_their_devices() -> None:
    meeting = threading.Barrier(2, timeout=WAIT_S)

    def meet(desk: Desk) -> str:
        meeting.wait()
        return desk.lane.name

    jobs = [job("a", "m", meet), job("b", "m", meet)]
    schedule = Schedule([lane("a"), lane("b")], Desk, jobs)
    schedule.start()
    assert [item.result.result(WAIT_S) for item in jobs] == ["a", "b"]
    schedule.stop()


def test_a_pool_takes_a_group_each_and_then_shares() -> None:
    """Two models on two equal devices: nobody waits for the other's reference."""
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slowly(desk: Desk) -> str:
        begun.release()
        assert go_on.wait(WAIT_S)
        return desk.lane.name

    jobs = [job("gpu", "m", slowly), job("gpu", "m"), job("gpu", "n", slowly), job("gpu", "n")]
    schedule = Schedule([lane("0", "gpu"), lane("1", "gpu")], Desk, jobs)
    schedule.start()
    for _ in range(2):
        assert begun.acquire(timeout=WAIT_S)
    go_on.set()
    names = [item.result.result(WAIT_S) for item in jobs]
    schedule.stop()
    assert names[0] != names[2]


def test_a_job_of_another_lane_does_not_block_what_follows() -> None:
    hold = threading.Event()
    jobs = [job("a", "m", lambda _desk: hold.wait(WAIT_S)), job("a", "m"), job("b", "m")]
    schedule = Schedule([lane("a"), lane("b")], Desk, jobs)
    schedule.start()
    assert jobs[2].result.result(WAIT_S) == "b"
    assert not jobs[1].result.done()
    hold.set()
    assert jobs[1].result.result(WAIT_S) == "a"
    schedule.stop()


def test_a_call_comes_before_what_waits_and_runs_in_the_lanes_thread() -> None:
    hold, begun = threading.Event(), threading.Event()

    def first(_desk: Desk) -> None:
        begun.set()
        assert hold.wait(WAIT_S)

    order: list[str] = []
    jobs = [job("a", "m", first), job("a", "m", lambda _desk: order.append("job"))]
    schedule = Schedule([lane("a")], Desk, jobs)
    schedule.start()
    assert begun.wait(WAIT_S)
    threading.Timer(0.2, hold.set).start()

    def call(desk: Desk) -> bool:
        order.append("call")
        return desk.thread is threading.current_thread()

    assert schedule.call("a", call) is True
    jobs[1].result.result(WAIT_S)
    schedule.stop()
    assert order == ["call", "job"]


def test_an_error_is_the_jobs_own() -> None:
    def fail(_desk: Desk) -> None:
        raise KeyError("x")

    jobs = [job("a", "m", fail), job("a", "m")]
    schedule = Schedule([lane("a")], Desk, jobs)
    schedule.start()
    with pytest.raises(KeyError):
        jobs[0].result.result(WAIT_S)
    assert jobs[1].result.result(WAIT_S) == "a"
    schedule.stop()


def test_stopping_cancels_what_has_not_begun_and_ends_what_has() -> None:
    begun = threading.Event()

    def until_closed(desk: Desk) -> bool:
        begun.set()
        return desk.closed.wait(WAIT_S)

    jobs = [job("a", "m", until_closed), job("a", "m"), job("a", "n")]
    schedule = Schedule([lane("a")], Desk, jobs)
    schedule.start()
    assert begun.wait(WAIT_S)
    schedule.stop()
    assert jobs[0].result.result(WAIT_S) is True
    assert [item.result.cancelled() for item in jobs] == [False, True, True]
    with pytest.raises(CancelledError):
        schedule.call("a", lambda _desk: None)


def test_the_jobs_of_a_lost_lane_go_to_an_equal_one() -> None:
    begun = threading.Event()

    def lose(desk: Desk) -> str:
        begun.set()
        if desk.lane.name == "there":
            desk.lost = HostLost("host 'there': gone")
        return desk.lane.name

    jobs = [Job[Desk](device="gpu", group="m", work=lose) for _ in range(4)]
    schedule = Schedule([lane("there", "gpu"), lane("here", "gpu")], Desk, jobs)
    schedule.start()
    assert [item.result.result(WAIT_S) for item in jobs] == ["here"] * 4
    assert schedule.call("gpu", lambda desk: desk.lane.name) == "here"
    schedule.stop()


def test_what_no_other_lane_can_do_ends_with_the_reason() -> None:
    def lose(_desk: Desk) -> None:
        raise HostLost("host 'p40': gone")

    jobs = [job("p40", "m", lose), job("p40", "m"), job("cpu", "m")]
    schedule = Schedule([lane("p40"), lane("cpu")], Desk, jobs)
    schedule.start()
    for item in jobs[:2]:
        with pytest.raises(HostLost, match="gone"):
            item.result.result(WAIT_S)
    assert jobs[2].result.result(WAIT_S) == "cpu"
    with pytest.raises(HostLost, match="gone"):
        schedule.call("p40", lambda _desk: None)
    schedule.stop()
