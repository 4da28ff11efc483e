"""Verdicts, and the evidence that each carries."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class VerdictKind(Enum):
    """What is said of a cell; the value is the word that a person reads."""

    PASS = "PASS"  # noqa: S105 # a verdict, not a password
    IMPROVED = "IMPROVED"
    MEASURED = "MEASURED"
    UNSUPPORTED = "UNSUPPORTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    NO_BASELINE = "NO_BASELINE"
    NOT_COMPARABLE = "NOT_COMPARABLE"
    REGRESSED = "REGRESSED"
    INVALID = "INVALID"
    UNAVAILABLE = "UNAVAILABLE"
    TIMEOUT = "TIMEOUT"
    CRASHED = "CRASHED"

    @property
    def is_green(self) -> bool:
        """Whether the verdict passes a test by itself."""
        return self in _GREEN


_GREEN = frozenset({VerdictKind.PASS, VerdictKind.IMPROVED, VerdictKind.MEASURED})
"""UNSUPPORTED is green only where a baseline or the profile says so: a skip, decided there."""

_SEVERITY = (
    VerdictKind.MEASURED,
    VerdictKind.PASS,
    VerdictKind.IMPROVED,
    VerdictKind.UNSUPPORTED,
    VerdictKind.INCONCLUSIVE,
    VerdictKind.NO_BASELINE,
    VerdictKind.NOT_COMPARABLE,
    VerdictKind.REGRESSED,
    VerdictKind.INVALID,
    VerdictKind.UNAVAILABLE,
    VerdictKind.TIMEOUT,
    VerdictKind.CRASHED,
)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One metric against one limit.

    ``estimate``, ``low`` and ``high`` are relative changes (0.01 is +1 %) where ``against`` is
    the reference or the baseline, else in the metric's unit; ``low`` and ``high`` are the
    one-sided bounds that decided. ``more_chunks`` says how many more would probably decide.
    """

    metric: str
    against: str
    verdict: VerdictKind
    reason: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    more_chunks: int | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A cell's verdict with its evidence; ``cause`` says what moved it away from its baseline."""

    kind: VerdictKind
    reason: str
    judgements: tuple[Judgement, ...] = ()
    cause: str | None = None


def worst(kinds: list[VerdictKind]) -> VerdictKind:
    """Return the verdict that a cell gets from its judgements; IMPROVED wins over PASS."""
    return max(kinds, key=_SEVERITY.index, default=VerdictKind.MEASURED)
