"""Measurement, limit and baseline in, verdict and evidence out; no input or output here."""

from __future__ import annotations

from pytest_quantgate.config.metrics import METRICS
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.cause import find_cause
from pytest_quantgate.gate.judges.bounds import not_comparable
from pytest_quantgate.gate.judges.changes import settle_changes
from pytest_quantgate.gate.judges.gains import doubt_gains
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.metrics.registry import load
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.verdicts import (
    Against,
    Cause,
    CauseKind,
    Judgement,
    Verdict,
    VerdictKind,
    worst,
)
from pytest_quantgate.stats import Look


def judge_metric(
    metric: str, seen: Observation, limits: Limits, baseline: Baseline | None, look: Look
) -> list[Judgement]:
    """Judge one metric by its own judge."""
    judgements: list[Judgement] = load(METRICS[metric].judge)(seen, limits, baseline, look)
    return judgements


_HAS_CAUSE = frozenset(
    {
        VerdictKind.REGRESSED,
        VerdictKind.CHANGED,
        VerdictKind.SUSPICIOUS,
        VerdictKind.INCONCLUSIVE,
        VerdictKind.INVALID,
    }
)


def conclude(
    judgements: list[Judgement],
    seen: Observation,
    baseline: Baseline | None,
    *,
    is_final: bool = True,
) -> Verdict:
    """Combine judgements: the worst decides, and a move away from the baseline gets its cause.

    Args:
        judgements: each metric's.
        seen: what was observed.
        baseline: what it was held against.
        is_final: no later look follows.

    """
    judgements = doubt_gains(judgements, seen, baseline)
    judgements = settle_changes(judgements, is_final=is_final)
    kind = worst([item.verdict for item in judgements])
    deciding = [item for item in judgements if item.verdict is kind]
    # Several metrics may give one reason, such as another source.
    reason = "; ".join(dict.fromkeys(str(item.reason) for item in deciding)) or "measured"
    return Verdict(
        kind=kind,
        reason=reason,
        judgements=tuple(judgements),
        cause=_cause(kind, judgements, seen, baseline),
    )


def _cause(
    kind: VerdictKind, judgements: list[Judgement], seen: Observation, baseline: Baseline | None
) -> Cause | None:
    """Return what moved a cell away from its baseline, None where nothing did."""
    deciding = [item for item in judgements if item.verdict is kind]
    if kind is VerdictKind.REGRESSED and any(item.against is Against.ORACLE for item in deciding):
        return Cause(kind=CauseKind.WRONG_ENGINE)
    # What is not finite broke no limit of the baseline's, but differs from it all the same.
    moved = {
        item.metric
        for item in deciding
        if item.against in {Against.BASELINE, Against.ANCHOR} or kind is VerdictKind.INVALID
    }
    if not moved:
        return None
    last_step = [
        item for item in judgements if item.against is Against.BASELINE and item.metric in moved
    ]
    only_drifted = {item.metric for item in last_step} == moved and all(
        item.verdict.is_green for item in last_step
    )
    if kind is VerdictKind.REGRESSED and only_drifted:
        return Cause(kind=CauseKind.DRIFTED)
    if kind not in _HAS_CAUSE or baseline is None or not_comparable(seen, baseline) is not None:
        return None
    return find_cause(seen, baseline, moved=moved)
