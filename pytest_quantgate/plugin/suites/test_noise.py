"""Two tests a cell of the profile: settings that should not matter (``--quant-calibrate``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.plugin.suites import asks_its_metrics

if TYPE_CHECKING:
    from pytest_quantgate.metrics.measured_cell import MeasuredCell


@asks_its_metrics
def test_settings(quant_cell: MeasuredCell) -> None:
    """Measure how far settings move the cell's figures; an outlier is the engine's fault."""
    assert quant_cell.file_bytes > 0


@asks_its_metrics
def test_sweep(quant_cell: MeasuredCell) -> None:
    """Measure how far apart sound kernels are: what the limits between conditions rest on."""
    assert quant_cell.file_bytes > 0
