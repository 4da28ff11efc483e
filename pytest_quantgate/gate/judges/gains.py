"""Gains that are too good: what computes the same file cannot become so much better."""

from __future__ import annotations

import math
from dataclasses import replace

from pytest_quantgate import stats
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gate.reasons.changes import TooGood
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.verdicts import Judgement, VerdictKind

_OF_QUALITY = frozenset({"perplexity", "divergence", "routing"})
"""The metrics that a sound engine cannot improve; kernels that double a speed are written."""


def doubt_gains(
    judgements: list[Judgement], seen: Observation, baseline: Baseline | None
) -> list[Judgement]:
    """Turn a gain beyond `stats.PPL_ALLOWANCE` times its limit on an equal file into SUSPICIOUS.

    Better kernels move a file's quality by rounding. What moves it by more reads tokens that it is
    to predict, another file than it says, or repairs what was broken: someone has to look.
    """
    if baseline is None or baseline.perplexity is None or not _is_equal_file(seen, baseline):
        return judgements
    return [_doubted(item) if _is_too_good(item) else item for item in judgements]


def _is_equal_file(seen: Observation, baseline: Baseline) -> bool:
    is_equal = dict(baseline.tensors_scored) == seen.cell.tensors
    return is_equal and baseline.metadata in (None, seen.cell.metadata)


def _is_too_good(item: Judgement) -> bool:
    if item.verdict is not VerdictKind.IMPROVED or item.metric not in _OF_QUALITY:
        return False
    gain, limit = item.estimate if item.high is None else item.high, item.limit
    if gain is None or limit is None:
        return False
    if item.metric == "perplexity":  # relative changes, which add up as logarithms
        gain, limit = math.log1p(gain), math.log1p(limit)
    return gain < -stats.PPL_ALLOWANCE * limit


def _doubted(item: Judgement) -> Judgement:
    reason = item.reason.also(TooGood(limits=stats.PPL_ALLOWANCE))
    return replace(item, verdict=VerdictKind.SUSPICIOUS, reason=reason)
