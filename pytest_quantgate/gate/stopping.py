"""When a speed has been measured enough: where the limits that the profile sets it are decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pytest_quantgate.gate.judges.speed import phases_decided
from pytest_quantgate.gate.measuring import measure_cell
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gate.question import Question
from pytest_quantgate.matrix.resolved import ResolvedCell
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.metrics.speed import measure_speed
from pytest_quantgate.results.measurements.speed import SpeedMeasurement


def short_way(question: Question) -> Callable[[Session, ResolvedCell], Any] | None:
    """Return how no more is measured than a question of the profile needs, if that is possible.

    A test with limits of its own may be one of several, which all have to be decided.
    """
    if question.metric != "speed" or question.limits is not None:
        return None
    return lambda session, cell: measure_speed(session, cell, partial(_decided, session, cell))


def _decided(
    session: Session, cell: ResolvedCell, measured: SpeedMeasurement
) -> Mapping[str, bool]:
    seen = Observation(cell=measure_cell(session, cell, None, {"speed": measured}).record)
    stored = session.stored(cell.cell).baseline
    return phases_decided(seen, cell.limits, None if measured.against else stored, stored)
