"""What all metrics are judged with: looks, confidence bounds, plain maxima, comparability.

Every rule is written as "pass only if": a number that is not finite never passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pytest_quantgate import stats
from pytest_quantgate.gate.observation import Observation, percent
from pytest_quantgate.gguf.digests import is_identity
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.chunk_table import ChunkTable
from pytest_quantgate.results.verdicts import Judgement, VerdictKind

KIND_OF_OUTCOME = {
    stats.Outcome.INSIDE: VerdictKind.PASS,
    stats.Outcome.OUTSIDE: VerdictKind.REGRESSED,
    stats.Outcome.UNDECIDED: VerdictKind.INCONCLUSIVE,
    stats.Outcome.NOT_FINITE: VerdictKind.INVALID,
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look: the errors that it may spend, and whether it is the last one."""

    alpha_pass: float
    alpha_regressed: float
    is_last: bool


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How a metric is shown: its name, and an estimate's unit turned into what is printed."""

    metric: str
    name: str
    shown: Callable[[float], float]
    text: Callable[[float], str]


def by_bounds(
    scale: Scale,
    against: str,
    estimate: stats.PairedEstimate,
    limit: float,
    look: Look,
    chunks: ChunkTable,
    seen: Observation,
    *,
    final: bool = False,
) -> Judgement:
    """Judge a paired difference of per-chunk sums by its confidence bounds.

    Args:
        scale: how it is shown.
        against: what it is a difference from.
        estimate: the difference, in the metric's own unit a token.
        limit: the largest difference allowed, in the same unit.
        look: which errors may be spent.
        chunks: the chunks that it was estimated on.
        seen: what was observed.
        final: bit-equal values here are bit-equal on every further chunk.

    """
    identical = estimate.chunks_differing == 0
    decision = stats.decide(
        estimate,
        limit,
        alpha_pass=look.alpha_pass,
        alpha_regressed=look.alpha_regressed,
        identical=identical,
        last_look=look.is_last or final,
    )
    kind = KIND_OF_OUTCOME[decision.outcome]
    low, high = scale.shown(decision.lower_bound), scale.shown(decision.upper_bound)
    change, shown_limit = scale.shown(estimate.mean), scale.shown(limit)
    more = None
    if identical:
        digits = "" if chunks.is_exact else ", to the digits printed"
        same = f"{scale.name} identical to {noun(against, seen)}'s"
        reason = f"{same} on {estimate.tokens:,} tokens{digits}"
    else:
        bounds = f" [{scale.text(low)}, {scale.text(high)}]" if math.isfinite(high) else ""
        where = "" if against == "limit" else f" against {noun(against, seen)}"
        reason = (
            f"{scale.name} {scale.text(change)}{bounds}{where} over {estimate.chunks} chunks in"
            f" {estimate.clusters} clusters, limit {scale.text(shown_limit)}"
        )
    if kind is VerdictKind.INCONCLUSIVE:
        reason += f": {decision.reason.value}"
        more = stats.chunks_to_decide(
            estimate,
            limit,
            alpha_pass=look.alpha_pass,
            alpha_regressed=look.alpha_regressed,
        )
        if more is not None and look.is_last:
            left = seen.n_chunks_in_text - estimate.chunks
            reason += f"; about {more:,} more chunks would decide (the text has {left:,} more)"
    if kind is VerdictKind.PASS and against == "baseline" and 0 < limit < -decision.upper_bound:
        kind = VerdictKind.IMPROVED
    return Judgement(
        metric=scale.metric,
        against=against,
        verdict=kind,
        reason=reason,
        estimate=change,
        low=low,
        high=high,
        limit=shown_limit,
        more_chunks=more,
    )


def noun(against: str, seen: Observation) -> str:
    """Return what a judgement is against, for a sentence."""
    return seen.versus if against == "baseline" else f"the {against}"


def figure(value: float) -> str:
    """Write a perplexity with its digits, and a number of bytes in full."""
    return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:,.6g}"


def at_most(metric: str, name: str, value: float, limit: float, unit: str) -> Judgement:
    """Judge a number that has no sampling error against a maximum."""
    if not math.isfinite(value):
        verdict, relation = VerdictKind.INVALID, "is not finite, limit"
    elif value <= limit:
        verdict, relation = VerdictKind.PASS, "is within"
    else:
        verdict, relation = VerdictKind.REGRESSED, "is above"
    return Judgement(
        metric=metric,
        against="limit",
        verdict=verdict,
        reason=f"{name} {figure(value)}{unit} {relation} {figure(limit)}{unit}",
        estimate=value,
        limit=limit,
    )


def grown_bytes(
    metric: str,
    name: str,
    against: str,
    seen: Observation,
    now_bytes: int,
    before_bytes: int,
    limit: float,
) -> Judgement:
    """Judge how much a number of bytes grew, relative to what it was."""
    change = now_bytes / before_bytes - 1
    return Judgement(
        metric=metric,
        against=against,
        verdict=VerdictKind.PASS if change <= limit else VerdictKind.REGRESSED,
        reason=(
            f"{name} {percent(change)} against {noun(against, seen)} ({now_bytes:,} bytes, was"
            f" {before_bytes:,}), limit {percent(limit)}"
        ),
        estimate=change,
        limit=limit,
    )


def only(metric: str, against: str, verdict: VerdictKind, reason: str) -> Judgement:
    """Return a verdict that needs no figures."""
    return Judgement(metric=metric, against=against, verdict=verdict, reason=reason)


def other_source(seen: Observation, baseline: Baseline) -> str | None:
    """Say that a model was made from another file than the baseline's, or None."""
    before, now = baseline.source_sha256, seen.cell.source_sha256
    if before is None or now is None or before == now:
        return None
    return (
        f"the model's source is another file than {seen.versus}'s ({_short(now)},"
        f" was {_short(before)})"
    )


def _short(identity: str) -> str:
    """Return the beginning of a file's identity, or of a plain SHA-256."""
    return identity[:17] if is_identity(identity) else f"SHA-256 {identity[:12]}"


def not_comparable(seen: Observation, baseline: Baseline) -> str | None:
    """Say why a measurement and a baseline cannot be compared, or None."""
    stored = baseline.perplexity
    text_sha256 = seen.cell.text_sha256
    if stored is not None and stored.text_sha256 != text_sha256:
        hint = ""
        if stored.text_sha256 == seen.text_sha256_with_lf:
            hint = f": it has CRLF line ends where {seen.versus}'s text had LF"
        return (
            f"the text's bytes are not {seen.versus}'s (SHA-256 {text_sha256[:12]}, was"
            f" {stored.text_sha256[:12]}){hint}"
        )
    other = other_source(seen, baseline)
    if other is not None:
        return other
    if not len(seen.chunks) or stored is None or len(seen.paired(baseline)):
        return None
    return f"{seen.versus} has none of the chunks that were measured"
