"""The built-in suite: ordinary tests over the public fixtures and markers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from pytest_quantgate.config.metrics import METRICS

_TestT = TypeVar("_TestT", bound=Callable[..., Any])

MATRIX_NODE = "quant-matrix"
CALIBRATION_NODE = "quant-calibrate"
CODECS_NODE = "quant-codecs"

SWEEP_TEST = "test_sweep"
"""The matrix's test that ``--quant-sweep`` runs alone."""

NODES = (MATRIX_NODE, CALIBRATION_NODE, CODECS_NODE)
"""The suites' node ids, which are arguments that pytest takes."""


def asks_its_metrics(test: _TestT) -> _TestT:
    """Mark a test of a suite with the markers of the metrics that it asks for."""
    for metric in METRICS.values():
        if metric.asked_by == test.__name__:
            test = getattr(pytest.mark, metric.marker)(test)
    return test
