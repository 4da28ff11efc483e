"""The metrics that are measured once a cell, and not chunk by chunk: measured, kept, read."""

from __future__ import annotations

import contextlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from pytest_quantgate.config.metric import Metric
from pytest_quantgate.config.metrics import METRICS
from pytest_quantgate.metrics.scoring import measurement_key
from pytest_quantgate.results.measurements.absent import Absent
from pytest_quantgate.results.record import plain
from pytest_quantgate.results.record_file import measurement_type
from pytest_quantgate.storage.atomic import read_json, write_json
from pytest_quantgate.storage.keys import key_of

if TYPE_CHECKING:
    from pytest_quantgate.matrix.resolved import ResolvedCell
    from pytest_quantgate.matrix.session import Session


def load(name: str) -> Any:
    """Return the object that an entry of the table of metrics names, ``package.module:object``."""
    return pkgutil.resolve_name(name)


def properties_of(metric: Metric, measurement: Any) -> Mapping[str, float]:
    """Return the numbers that stand beside a test's result, by name."""
    if metric.properties is not None:
        properties: Mapping[str, float] = load(metric.properties)(measurement)
        return properties
    values = {figure.name: getattr(measurement, figure.name) for figure in metric.figures}
    return {f"quant_{name}": float(item) for name, item in values.items() if item is not None}


def notes_of(measured: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what must be said aloud of a cell's measurements."""
    return tuple(note for item in measured.values() for note in getattr(item, "notes", ()))


def measure_once(
    session: Session,
    name: str,
    cell: ResolvedCell,
    shortly: Callable[[Session, ResolvedCell], Any] | None = None,
) -> Any:
    """Measure a cell's metric, or return what this process has measured of it already.

    ``shortly`` measures no more than one question needs, and is used where the metric has not been
    measured yet; what it gives is kept apart, since another question may need more.

    Raises:
        CellError: the cell could not be measured.

    """
    known, key = session.measured_once, (name, cell.id, False)
    if shortly is not None and key not in known:
        short_key = (name, cell.id, True)
        if short_key not in known:
            with session.stopwatch.stage(name):
                known[short_key] = shortly(session, cell)
        return known[short_key]
    if key not in known:
        is_kept = METRICS[name].is_kept
        measure = _read_or_measure if is_kept and not cell.is_shape else _measure
        with session.stopwatch.stage(name):
            known[key] = measure(session, name, cell)
    return known[key]


def _measure(session: Session, name: str, cell: ResolvedCell) -> Any:
    measure = METRICS[name].measure
    assert measure is not None
    return load(measure)(session, cell)


def _read_or_measure(session: Session, name: str, cell: ResolvedCell) -> Any:
    """Return what an earlier run measured of the same, else measure it and keep it."""
    key = key_of(
        metric=name,
        code=_code_of(name),
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
            return TypeAdapter(measurement_type(name)).validate_python(kept)
    measurement = _measure(session, name, cell)
    if not isinstance(measurement, Absent):
        write_json(path, plain(asdict(measurement)))
    return measurement


def _code_of(name: str) -> str:
    """Return the source of what measures a metric: other code may give other figures."""
    measure = METRICS[name].measure
    assert measure is not None
    return inspect.getsource(sys.modules[load(measure).__module__])
