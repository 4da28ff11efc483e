"""Metrics of which a cell has nothing: a limit that a test sets by name cannot be kept."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from pytest_quantgate.gate.judges.bounds import only
from pytest_quantgate.results.measurements.absent import Absent
from pytest_quantgate.results.verdicts import Against, Judgement, Stated, VerdictKind


def judge_absent(absent: Mapping[str, Absent], by_name: AbstractSet[str]) -> list[Judgement]:
    """Judge what is not there.

    Args:
        absent: by metric, why there is nothing of it.
        by_name: the metrics that a test sets a limit for.

    """
    return [
        only(metric, Against.NOTHING, VerdictKind.UNSUPPORTED, Stated(item.reason))
        for metric, item in absent.items()
        if metric in by_name and not item.is_natural
    ]


def why_nothing(absent: Mapping[str, Absent]) -> str:
    """Say why no limit of a test was judged; of a reference none against it can be."""
    reasons = _not_judged(absent) or ("not judged: the limits are against the reference itself",)
    return "; ".join(reasons)


def _not_judged(absent: Mapping[str, Absent]) -> tuple[str, ...]:
    """Say of each metric that it was not judged, and why."""
    return tuple(f"{metric} not judged: {item.reason}" for metric, item in absent.items())


def notes_of_absent(absent: Mapping[str, Absent]) -> tuple[str, ...]:
    """Return what must be said aloud of what is not there."""
    return _not_judged(
        {metric: item for metric, item in absent.items() if item.is_noted and not item.is_natural}
    )
