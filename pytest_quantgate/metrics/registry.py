"""The metrics that are measured once a cell, and not chunk by chunk.

A metric of this kind is a file beside this one (how it is measured), a line in this table, a frozen
dataclass of plain types in :data:`pytest_quantgate.results.measurements.MEASUREMENTS`, a judge of
the same name in :data:`pytest_quantgate.gate.judge.JUDGES`, and the marker that asks for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from pytest_quantgate.metrics.batches import measure_batches
from pytest_quantgate.metrics.devices import measure_devices
from pytest_quantgate.metrics.imatrix import measure_imatrix
from pytest_quantgate.metrics.memory import measure_memory
from pytest_quantgate.metrics.noise import measure_noise
from pytest_quantgate.metrics.oracle import measure_oracle
from pytest_quantgate.metrics.routing import measure_routing
from pytest_quantgate.metrics.scoring import measurement_key
from pytest_quantgate.metrics.speed import measure_speed
from pytest_quantgate.results.measurements import MEASUREMENTS
from pytest_quantgate.results.measurements.absent import Absent
from pytest_quantgate.results.measurements.memory import memory_figures
from pytest_quantgate.results.measurements.speed import speed_figures
from pytest_quantgate.results.record import plain
from pytest_quantgate.storage.atomic import read_json, write_json
from pytest_quantgate.storage.keys import key_of

if TYPE_CHECKING:
    from pytest_quantgate.matrix.resolved import ResolvedCell
    from pytest_quantgate.matrix.session import Session


@dataclass(frozen=True, kw_only=True)
class CellMetric:
    """How a metric is measured.

    ``measure`` gives the dataclass of the same name in
    :data:`pytest_quantgate.results.measurements.MEASUREMENTS`, or an
    :class:`~pytest_quantgate.results.measurements.absent.Absent` for a cell that has nothing of
    the kind, and may raise a :class:`~pytest_quantgate.errors.CellError`, the cell's verdict.
    Where the dataclass has a property ``notes``, these lines stand under the table. ``is_kept``
    says that the same file, engine, hardware and settings give the same again, so that a later
    run need not measure. ``figures`` are the few numbers that stand beside a test's result, by
    name.
    """

    measure: Callable[[Session, ResolvedCell], Any]
    is_kept: bool = False
    figures: Callable[[Any], Mapping[str, float]] = lambda _measurement: {}


CELL_METRICS: Mapping[str, CellMetric] = MappingProxyType(
    {
        "batches": CellMetric(measure=measure_batches, is_kept=True),
        "noise": CellMetric(measure=measure_noise),
        "devices": CellMetric(measure=measure_devices, is_kept=True),
        "oracle": CellMetric(measure=measure_oracle, is_kept=True),
        "imatrix": CellMetric(measure=measure_imatrix),
        "routing": CellMetric(measure=measure_routing, is_kept=True),
        "speed": CellMetric(measure=measure_speed, figures=speed_figures),
        "memory": CellMetric(measure=measure_memory, figures=memory_figures),
    }
)


def notes_of(measured: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what must be said aloud of a cell's measurements."""
    return tuple(note for item in measured.values() for note in getattr(item, "notes", ()))


def measure_once(session: Session, name: str, cell: ResolvedCell) -> Any:
    """Measure a cell's metric, or return what this process has measured of it already.

    Raises:
        CellError: the cell could not be measured.

    """
    key = name, cell.id
    if key not in session.measured_once:
        metric = CELL_METRICS[name]
        measure = _read_or_measure if metric.is_kept and not cell.is_shape else _measure
        session.measured_once[key] = measure(session, name, cell)
    return session.measured_once[key]


def _measure(session: Session, name: str, cell: ResolvedCell) -> Any:
    return CELL_METRICS[name].measure(session, cell)


def _read_or_measure(session: Session, name: str, cell: ResolvedCell) -> Any:
    """Return what an earlier run measured of the same, else measure it and keep it."""
    key = key_of(
        metric=name,
        scores=measurement_key(session, cell, session.artifacts.file(cell)),
        profile=session.settings.profile.model_dump(mode="json"),
        imatrices={
            matrix: settings.model_dump(mode="json")
            for matrix, settings in session.settings.imatrices.items()
        },
        devices={
            device: settings.model_dump(mode="json")
            for device, settings in session.settings.devices.items()
        },
    )
    path = session.cache.sub("measurements") / f"{key}.json"
    kept = read_json(path)
    if kept is not None:
        with contextlib.suppress(ValidationError):
            return TypeAdapter(MEASUREMENTS[name]).validate_python(kept)
    measurement = _measure(session, name, cell)
    if not isinstance(measurement, Absent):
        write_json(path, plain(asdict(measurement)))
    return measurement
