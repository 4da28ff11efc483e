"""Work for several lanes at once: each lane is a thread that takes what it can do next."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from pytest_quantgate.errors import HostLost
from pytest_quantgate.hosts.lanes import Lane

_STOP_S = 10.0
"""How long the lanes have to end what they do once the run is stopped."""


class LaneContext(Protocol):
    """What a lane works with, such as a session with the lane's own engines.

    ``lost`` says why nothing more can be done with it, None while something can.
    """

    @property
    def lost(self) -> HostLost | None:
        """Why nothing more can be done."""

    def close(self) -> None:
        """End its processes."""


ContextT = TypeVar("ContextT", bound=LaneContext)


@dataclass(frozen=True, kw_only=True)
class Job(Generic[ContextT]):
    """Something to be done on a lane that serves the device.

    Jobs of one ``group`` share a model and its reference: a lane stays with a group, and begins
    another one rather than share it while there is one.
    """

    device: str
    group: object
    work: Callable[[ContextT], Any]
    result: Future[Any] = field(default_factory=Future)


class Schedule(Generic[ContextT]):
    """Hands jobs to lanes, in order as far as their devices allow it.

    Args:
        lanes: the lanes.
        open_context: makes what a lane works with, in the lane's own thread: a worker process
            ends with the thread that started it.
        jobs: what is known from the start.

    Attributes:
        lost_lanes: why the lanes were lost that were, by name.

    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        open_context: Callable[[Lane], ContextT],
        jobs: Sequence[Job[ContextT]],
    ) -> None:
        self._open_context = open_context
        self._waiting = list(jobs)
        self._urgent: list[Job[ContextT]] = []
        self._at_work: dict[str, object] = {}
        self._contexts: dict[str, ContextT] = {}
        self._is_stopped = False
        self._alive = list(lanes)
        self._lost: dict[str, HostLost] = {}
        self.lost_lanes: dict[str, HostLost] = {}
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._run, args=(lane,), name=f"lane {lane.name}", daemon=True)
            for lane in lanes
        ]

    def start(self) -> None:
        """Let the lanes begin."""
        for thread in self._threads:
            thread.start()

    def call(self, device: str, work: Callable[[ContextT], Any]) -> Any:
        """Do something on a lane of a device before what waits there, and return its result."""
        job = Job(device=device, group=None, work=work)
        with self._changed:
            if self._is_stopped:
                raise CancelledError
            if not any(lane.serves(device) for lane in self._alive):
                raise self._lost[device]
            self._urgent.append(job)
            self._changed.notify_all()
        return job.result.result()

    def stop(self) -> None:
        """Cancel what has not begun, and end what has."""
        with self._changed:
            self._is_stopped = True
            for job in (*self._waiting, *self._urgent):
                job.result.cancel()
            self._waiting.clear()
            self._urgent.clear()
            busy = [self._contexts[name] for name in self._at_work if name in self._contexts]
            self._changed.notify_all()
        for context in busy:
            context.close()
        for thread in self._threads:
            thread.join(_STOP_S)

    def _run(self, lane: Lane) -> None:
        context: ContextT | None = None
        last: object = None
        while (job := self._next(lane, last)) is not None:
            try:
                if context is None:
                    context = self._contexts[lane.name] = self._open_context(lane)
                outcome = job.work(context)
                lost = context.lost
            except HostLost as error:
                lost = error
            except BaseException as error:  # noqa: BLE001 # raised again where it is waited for
                job.result.set_exception(error)
                outcome, lost = None, None if context is None else context.lost
            else:
                if lost is None:
                    job.result.set_result(outcome)
            last = last if job.group is None else job.group
            with self._changed:
                self._at_work.pop(lane.name, None)
                if lost is not None:
                    self._retire(lane, job, lost)
                    break
        if context is not None:
            with contextlib.suppress(OSError):
                context.close()

    def _next(self, lane: Lane, last: object) -> Job[ContextT] | None:
        """Wait for a job that the lane can do and take it; None when the run is stopped."""
        with self._changed:
            while not self._is_stopped:
                job = self._choose(lane, last)
                if job is not None:
                    self._at_work[lane.name] = job.group
                    return job
                self._changed.wait()
        return None

    def _retire(self, lane: Lane, job: Job[ContextT], lost: HostLost) -> None:
        """Leave a lane's job to an equal lane; what no other serves ends with the reason."""
        self._alive.remove(lane)
        if not job.result.done():
            (self._urgent if job.group is None else self._waiting).insert(0, job)
        for jobs in (self._urgent, self._waiting):
            for item in list(jobs):
                if not any(other.serves(item.device) for other in self._alive):
                    jobs.remove(item)
                    item.result.set_exception(lost)
        self._lost |= dict.fromkeys(lane.backends, lost)
        self.lost_lanes[lane.name] = lost
        self._changed.notify_all()

    def _choose(self, lane: Lane, last: object) -> Job[ContextT] | None:
        for jobs in (self._urgent, self._waiting):
            own = [job for job in jobs if lane.serves(job.device)]
            if own:
                same = (job for job in own if last is not None and job.group == last)
                free = (job for job in own if job.group not in self._at_work.values())
                job = next(same, None) or next(free, None) or own[0]
                jobs.remove(job)
                return job
        return None
