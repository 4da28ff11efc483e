"""Contracts over the tables: a metric that is only half there fails here."""

from __future__ import annotations

import sys
from dataclasses import is_dataclass

import pytest
from pydantic import TypeAdapter

from pytest_quantgate.config.metric import Metric
from pytest_quantgate.config.metrics import LIMITS, METRICS, register
from pytest_quantgate.config.schema import Limits, ProfileSettings
from pytest_quantgate.metrics.registry import load
from pytest_quantgate.plugin.suite_nodes import OPTIONAL_TESTS
from pytest_quantgate.plugin.suites import test_matrix, test_noise
from pytest_quantgate.results.record_file import measurement_type


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_name_of_code_in_the_table_is_there(metric: Metric) -> None:
    for name in (metric.judge, metric.measure, metric.columns, metric.properties):
        assert name is None or callable(load(name))
    assert (metric.measure is None) == (metric.measurement is None)
    assert not (metric.by_chunk and metric.measure)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_is_asked_for_by_a_test_of_a_suite(metric: Metric) -> None:
    test = getattr(test_matrix, str(metric.asked_by), None) or test_noise.test_settings
    assert metric.marker in {mark.name for mark in vars(test)["pytestmark"]}


def test_every_keyword_of_a_marker_is_a_limit() -> None:
    assert list(Limits.model_fields) == list(LIMITS)
    for metric in METRICS.values():
        for keyword in metric.keywords:
            phase = metric.phases[0] if metric.phases else None
            assert metric.limit_of(keyword, phase) in LIMITS, metric.name


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.measure])
def test_a_measurement_can_be_read_back_from_a_record(name: str) -> None:
    kind = measurement_type(name)
    assert is_dataclass(kind)
    assert TypeAdapter(kind).json_schema()["type"] == "object"


def test_a_name_that_is_taken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pytest_quantgate.config.schema")
    with pytest.raises(ValueError, match="metric 'size': 'bits_per_weight_max' is taken"):
        register(METRICS["size"])


def test_optional_tests_exist_and_a_profile_can_switch_them_on() -> None:
    for test, switch in OPTIONAL_TESTS.items():
        assert hasattr(test_matrix, test)
        assert ProfileSettings.model_fields[switch].default is False
