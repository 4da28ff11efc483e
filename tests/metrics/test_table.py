"""Contracts over the tables: a metric that is only half there fails here."""

from __future__ import annotations

from dataclasses import is_dataclass

import pytest
from pydantic import TypeAdapter

from pytest_quantgate.config.limit_table import LIMITS, MARKERS
from pytest_quantgate.config.schema import Limits, ProfileSettings
from pytest_quantgate.gate.judge import BY_CHUNK, JUDGES
from pytest_quantgate.metrics.registry import CELL_METRICS
from pytest_quantgate.plugin.suite_nodes import OPTIONAL_TESTS
from pytest_quantgate.plugin.suites import test_matrix
from pytest_quantgate.results.measurements import MEASUREMENTS


def test_every_metric_has_a_judge_and_every_judge_a_marker() -> None:
    assert set(CELL_METRICS) < set(JUDGES)
    assert BY_CHUNK.isdisjoint(CELL_METRICS)
    assert {marker.metric for marker in MARKERS.values()} == set(JUDGES)


def test_every_keyword_of_a_marker_is_a_limit() -> None:
    assert list(Limits.model_fields) == list(LIMITS)
    for marker in MARKERS.values():
        for keyword in marker.keywords:
            phase = marker.phases[0] if marker.phases else None
            assert marker.limit_of(keyword, phase) in LIMITS, marker.name


@pytest.mark.parametrize("name", CELL_METRICS)
def test_a_measurement_can_be_read_back_from_a_record(name: str) -> None:
    kind = MEASUREMENTS[name]
    assert is_dataclass(kind)
    assert TypeAdapter(kind).json_schema()["type"] == "object"


def test_optional_tests_exist_and_a_profile_can_switch_them_on() -> None:
    for test, switch in OPTIONAL_TESTS.items():
        assert hasattr(test_matrix, test)
        assert ProfileSettings.model_fields[switch].default is False
