"""The measurements: a module a metric, frozen dataclasses of plain types."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pytest_quantgate.results.measurements.batches import BatchMeasurement
from pytest_quantgate.results.measurements.devices import DeviceMeasurement
from pytest_quantgate.results.measurements.imatrix import ImatrixMeasurement
from pytest_quantgate.results.measurements.memory import MemoryMeasurement
from pytest_quantgate.results.measurements.noise import NoiseMeasurement
from pytest_quantgate.results.measurements.oracle import OracleMeasurement
from pytest_quantgate.results.measurements.routing import RoutingMeasurement
from pytest_quantgate.results.measurements.speed import SpeedMeasurement

MEASUREMENTS: Mapping[str, type] = MappingProxyType(
    {
        "batches": BatchMeasurement,
        "noise": NoiseMeasurement,
        "devices": DeviceMeasurement,
        "oracle": OracleMeasurement,
        "imatrix": ImatrixMeasurement,
        "routing": RoutingMeasurement,
        "speed": SpeedMeasurement,
        "memory": MemoryMeasurement,
    }
)
"""What a record has of each metric that is measured once a cell, by the metric's name."""
