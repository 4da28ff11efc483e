"""Hands the selected cells to lanes after collection, and lets each test wait for its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from pytest_quantgate.config.metrics import MARKERS
from pytest_quantgate.errors import CellError, CellUnavailable, ConfigError
from pytest_quantgate.gate.loop import answer, failure
from pytest_quantgate.gate.question import Answer, Question
from pytest_quantgate.hosts.lanes import Lane, lanes_of, pool_members
from pytest_quantgate.hosts.schedule import Job, Schedule
from pytest_quantgate.matrix.cells import Cell
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.matrix.sharding import group_key
from pytest_quantgate.plugin.markers import read_marker
from pytest_quantgate.plugin.parametrize import Point
from pytest_quantgate.plugin.state import State
from pytest_quantgate.results.events import HostGivenUp


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a test was known to ask of its cell when the lanes began."""

    questions: tuple[Question, ...]
    job: Job[Session]


class Lanes:
    """The lanes of a run, and what each test's cell waits for there.

    Args:
        state: the plugin's state.
        lanes: the lanes.
        items: the tests whose cells are measured ahead of them, in their order.

    """

    def __init__(self, state: State, lanes: Sequence[Lane], items: Sequence[pytest.Item]) -> None:
        self._session = state.open_session()
        self._make_engine = state.make_engine
        self._run_id = state.run_id
        self._served = {device for lane in lanes for device in lane.backends}
        self._asked: dict[str, _Asked] = {}
        for item in items:
            point, questions = point_of(item), questions_of(item)
            if point is not None and questions and point.cell.device in self._served:
                self._asked[item.nodeid] = _Asked(
                    questions=questions,
                    job=Job(
                        device=point.cell.device,
                        group=group_key(point.cell),
                        work=partial(answer, cell=point.cell, questions=questions),
                    ),
                )
        cells = {item.nodeid: point.cell for item in items if (point := point_of(item))}
        self._schedule = Schedule(lanes, self._open, self._in_order(cells))
        self._schedule.start()

    def _in_order(self, cells: dict[str, Cell]) -> list[Job[Session]]:
        """Return the jobs, those of a group together and its reference first."""
        matrix = self._session.matrix
        groups: dict[object, list[str]] = {}
        for nodeid in self._asked:
            groups.setdefault(group_key(cells[nodeid]), []).append(nodeid)
        return [
            self._asked[nodeid].job
            for nodeids in groups.values()
            for nodeid in sorted(
                nodeids, key=lambda name: matrix.reference(cells[name]) != cells[name]
            )
        ]

    def _open(self, lane: Lane) -> Session:
        """Return a lane's own session, in the lane's thread, whose processors children inherit."""
        if lane.cpus and lane.host is None:
            _keep_to(lane)
        return Session(
            self._session.settings,
            self._run_id,
            self._make_engine,
            lane=lane,
            library=self._session.library,
        )

    def wait(self, item: pytest.Item) -> None:
        """Wait until a test's cell was measured, or could not be."""
        asked = self._asked.get(item.nodeid)
        if asked is not None:
            wait([asked.job.result])

    def answer(self, item: pytest.Item, cell: Cell, questions: Sequence[Question]) -> Answer:
        """Return what a lane found of a test's cell; ask anew what was not known before."""
        asked = self._asked.get(item.nodeid)
        given: Answer
        try:
            if asked is not None and asked.questions == tuple(questions):
                given = asked.job.result.result()
            else:
                given = self.call(cell, partial(answer, cell=cell, questions=tuple(questions)))
        except CellError as error:  # the lane could not be opened, or its host was lost
            given = failure(self._session, cell, error, questions)
        return given

    def call(self, cell: Cell, work: Callable[[Session], Any]) -> Any:
        """Call a function with a session that measures a cell, in the thread of its lane."""
        if cell.device not in self._served:
            return work(self._session)
        try:
            return self._schedule.call(cell.device, work)
        except CancelledError:
            pytest.fail("the run was stopped before this cell was measured", pytrace=False)

    def stop(self) -> None:
        """Cancel what has not begun, end the lanes' processes, and note which hosts were lost."""
        self._schedule.stop()
        for lane, lost in self._schedule.lost_lanes.items():
            self._session.events.append(HostGivenUp(cell="", lane=lane, reason=str(lost)))


def point_of(item: pytest.Item) -> Point | None:
    """Return the cell that a test is parametrized with, None for any other test."""
    point = item.callspec.params.get("_quant_point") if hasattr(item, "callspec") else None
    return point if isinstance(point, Point) else None


def questions_of(item: pytest.Item) -> tuple[Question, ...]:
    """Return what a test's markers ask of its cell."""
    return tuple(read_marker(mark) for mark in item.iter_markers() if mark.name in MARKERS)


def start_lanes(state: State, items: Sequence[pytest.Item]) -> Lanes | None:
    """Start the lanes of the tests' devices; None where everything takes turns anyway.

    In a worker of pytest-xdist nothing is measured ahead: its tests are not known.
    """
    session = state.open_session()
    cells = [point.cell for item in items if (point := point_of(item))]
    lanes = _lanes(session, tuple(dict.fromkeys(cell.device for cell in cells)))
    is_bound = any(lane.cpus or lane.host for lane in lanes)
    if not is_bound and (len(lanes) < 2 or state.is_xdist_worker):
        return None
    if state.is_xdist_worker:
        return Lanes(state, lanes, ())
    return Lanes(state, lanes, [item for item in items if item.get_closest_marker("skip") is None])


def _lanes(session: Session, names: Sequence[str]) -> tuple[Lane, ...]:
    """Return the lanes of the devices; a pool whose members are not known is one lane.

    Why they are not is said by the verdicts of its cells.
    """
    devices = {name: session.settings.devices[name] for name in names}
    pools: dict[tuple[str, str | None], tuple[str, ...]] = {}
    for name, device in devices.items():
        for host in device.hosts if device.is_pool else ():
            try:
                pools[name, host] = pool_members(name, device.backend, session.devices_of(host))
            except CellError:
                pools[name, host] = device.names
    session.engines.close()
    return lanes_of(devices, pools)


def _keep_to(lane: Lane) -> None:
    """Keep this thread, and the processes that it starts, to a lane's processors.

    Raises:
        CellUnavailable: the machine has none of them, or the platform cannot.

    """
    if not hasattr(os, "sched_setaffinity"):
        raise CellUnavailable(f"device {lane.name}: cpus can be set on Linux alone; remove it")
    try:
        os.sched_setaffinity(0, lane.cpus)
    except OSError as error:
        there = ", ".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0)))
        raise ConfigError(
            f"device {lane.name}: this process may use none of cpus ="
            f" {', '.join(map(str, lane.cpus))}; there are: {there}"
        ) from error
