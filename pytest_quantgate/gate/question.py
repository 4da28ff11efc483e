"""What a test asks of a cell, and what it is answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_quantgate.config.schema import Limits
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.measurements.absent import Absent
from pytest_quantgate.results.record import CellRecord
from pytest_quantgate.results.verdicts import Verdict


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a test asks of a cell's metric; ``limits`` None asks for all that apply by default."""

    metric: str
    limits: Limits | None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """All that is asked of a cell, with the limits that hold.

    ``by_name`` are the metrics that a test sets a limit for; ``absent`` says of those that the
    cell has nothing of why; ``measured`` has the metrics that are measured once a cell, by name.
    """

    limits: tuple[tuple[str, Limits], ...]
    by_name: frozenset[str]
    absent: Mapping[str, Absent]
    measured: Mapping[str, Any]

    @property
    def metrics(self) -> frozenset[str]:
        """The metrics' names."""
        return frozenset(metric for metric, _ in self.limits)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A cell's record, and the baseline that would accept what was measured.

    ``candidate`` is None where nothing acceptable was measured; ``measured`` has the metrics
    that are measured once, by name; ``others`` are the old engine's cell and the crossed ones.
    """

    record: CellRecord
    verdict: Verdict
    candidate: Baseline | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[CellRecord, ...] = ()
