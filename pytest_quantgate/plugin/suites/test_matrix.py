"""One test a cell of the active profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.plugin.suites import asks_its_metrics

if TYPE_CHECKING:
    from pytest_quantgate.metrics.measured_cell import MeasuredCell


@asks_its_metrics
def test_cell(quant_cell: MeasuredCell) -> None:
    """Judge the cell by the profile's limits and its baseline: the markers do it."""
    assert quant_cell.file_bytes > 0


@asks_its_metrics
def test_batch_geometry(quant_cell: MeasuredCell) -> None:
    """Judge the cell in batches of other sizes; only with ``batch_geometry = true``."""
    assert quant_cell.file_bytes > 0


@asks_its_metrics
def test_sweep(quant_cell: MeasuredCell) -> None:
    """Judge the cell under many conditions; only with ``sweep = true`` or ``--quant-sweep``."""
    assert quant_cell.file_bytes > 0


@asks_its_metrics
def test_devices(quant_cell: MeasuredCell) -> None:
    """Judge the cell against the profile's first device; only with ``compare_devices = true``."""
    assert quant_cell.file_bytes > 0


@asks_its_metrics
def test_speed(quant_cell: MeasuredCell) -> None:
    """Judge prefill and decode speed; only with ``speed = true``."""
    assert quant_cell.file_bytes > 0


@asks_its_metrics
def test_memory(quant_cell: MeasuredCell) -> None:
    """Judge the peak memory of a fresh process; only with ``memory = true``."""
    assert quant_cell.file_bytes > 0
