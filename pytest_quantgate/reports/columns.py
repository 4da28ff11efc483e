"""Columns of a table that are there only where something was measured for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from pytest_quantgate.results.measurements.memory import MemoryMeasurement
from pytest_quantgate.results.measurements.speed import PHASES, SpeedMeasurement
from pytest_quantgate.results.record import CellRecord


@dataclass(frozen=True, kw_only=True)
class Column:
    """A heading, and a cell's text below it."""

    heading: str
    text: Callable[[CellRecord], str]


def measured_columns(cells: Iterable[CellRecord]) -> tuple[Column, ...]:
    """Return the columns of what was measured in any of the cells."""
    names = {name for cell in cells for name in cell.measured}
    columns: list[Column] = []
    if "speed" in names:
        columns += [
            Column(heading=f"{phase} t/s [95 %]", text=partial(_speed, phase)) for phase in PHASES
        ]
    if "memory" in names:
        columns.append(Column(heading="peak MB", text=_memory))
    return tuple(columns)


def _speed(phase: str, cell: CellRecord) -> str:
    measured = cell.measured.get("speed")
    if not isinstance(measured, SpeedMeasurement):
        return "–"
    rate = f"{measured.tokens_per_s(phase):,.4g}"
    ratio = measured.vs_reference(phase)
    if ratio is None:
        return rate
    times, low, high = ratio
    return f"{rate} ({times:.2f}× [{low:.2f}, {high:.2f}])"


def _memory(cell: CellRecord) -> str:
    measured = cell.measured.get("memory")
    if not isinstance(measured, MemoryMeasurement) or measured.peak_resident_bytes is None:
        return "–"
    return f"{measured.peak_resident_bytes / 1e6:,.1f}"
