"""Refuses markers and fixtures that would judge nothing, whatever kind of test carries them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import pytest

from pytest_quantgate.config.metrics import MARKERS
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.plugin.markers import QUANT_FIXTURES, quant_marks, read_marker
from pytest_quantgate.plugin.parametrize import Point


def refuse_unjudged(session: pytest.Session, suspects: Sequence[pytest.Item]) -> None:
    """Report tests whose markers or fixtures judge nothing as collection errors, a function once.

    This is the end of collection: hooks have added their markers. The tests are taken out, since
    under pytest-xdist a collection error does not end the run.
    """
    functions: set[str] = set()
    refused: set[pytest.Item] = set()
    for item in suspects:
        problem = problem_of(item)
        if problem is None:
            continue
        refused.add(item)
        nodeid = item.nodeid.partition("[")[0]
        if nodeid not in functions:
            functions.add(nodeid)
            report = pytest.CollectReport(nodeid, "failed", f"{nodeid}: {problem}", [])
            item.ihook.pytest_collectreport(report=report)
    session.items[:] = [item for item in session.items if item not in refused]


def problem_of(item: pytest.Item) -> str | None:
    """Return why a marker or fixture of a test judges nothing, None if all of them do."""
    point = item.callspec.params.get("_quant_point") if hasattr(item, "callspec") else None
    fixtures = QUANT_FIXTURES.intersection(getattr(item, "fixturenames", ()))
    if fixtures and not isinstance(point, Point):
        return (
            f"the fixture {min(fixtures)} cannot be used here: pytest parametrizes no"
            f" {type(item).__name__}; write a function or a class that is no unittest.TestCase"
        )
    for mark in quant_marks(item):
        if mark.name not in MARKERS:
            if mark.name in _registered(item.config):
                continue
            close = difflib.get_close_matches(mark.name, MARKERS, n=1)
            hint = f" (did you mean @{close[0]}?)" if close else ""
            return f"@{mark.name} is unknown{hint}; valid: {', '.join(MARKERS)}"
        try:
            read_marker(mark)
        except ConfigError as error:
            return str(error)
        if not isinstance(point, Point) or "quant_cell" not in point.fixtures:
            return f"@{mark.name} is on a test without a cell; add the argument quant_cell"
    return None


def fail_unjudged(item: pytest.Item) -> None:
    """Fail a test one of whose markers, perhaps added since collection, judges nothing."""
    problem = problem_of(item)
    if problem is not None:
        pytest.fail(f"{item.nodeid}: {problem}", pytrace=False)


def _registered(config: pytest.Config) -> set[str]:
    """Return the names of the markers that the project has registered itself."""
    return {re.split(r"[:(]", line)[0].strip() for line in config.getini("markers")}
