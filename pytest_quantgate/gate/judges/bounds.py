"""What all metrics are judged with: looks, confidence bounds, plain maxima, comparability.

Every rule is written as "pass only if": a number that is not finite never passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from pytest_quantgate import stats
from pytest_quantgate.gate.observation import THE_BASELINE, Observation, percent
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


_END_OF_TEXT = "the text ends here: score another text besides, or widen the limit"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How a metric is shown: its name, and an estimate's unit turned into what is printed.

    ``text`` writes a value with its sign, ``size`` one without, and ``points`` the width of an
    interval, which has no other sign than ±.
    """

    metric: str
    name: str
    shown: Callable[[float], float]
    text: Callable[[float], str]
    size: Callable[[float], str]
    points: Callable[[float], str]


def by_bounds(
    scale: Scale,
    against: str,
    estimate: stats.PairedEstimate,
    limit: float,
    look: stats.Look,
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
    decision = stats.decide(
        estimate,
        limit,
        alpha_pass=look.alpha_pass,
        alpha_regressed=look.alpha_regressed,
        identical=estimate.chunks_differing == 0,
        last_look=look.is_last or final,
    )
    return by_decision(scale, against, estimate, decision, look, chunks, seen)


def by_decision(
    scale: Scale,
    against: str,
    estimate: stats.PairedEstimate,
    decision: stats.Decision,
    look: stats.Look,
    chunks: ChunkTable,
    seen: Observation,
    *,
    remark: str = "",
) -> Judgement:
    """Return a decision as a judgement, with its reason in words.

    Arguments as in `by_bounds`; ``remark`` is what else the decision rests on.
    """
    kind, more = KIND_OF_OUTCOME[decision.outcome], None
    if decision.reason is stats.Reason.IDENTICAL or estimate.chunks_differing == 0:
        digits = "" if chunks.is_exact else ", to the digits printed"
        same = f"{scale.name} identical to {noun(against, seen)}'s"
        reason = f"{same} on {estimate.tokens:,} tokens{digits}"
        if kind is VerdictKind.INCONCLUSIVE:
            reason += f": {decision.reason.value}"
    else:
        where = "" if against == "limit" else f" against {noun(against, seen)}"
        reason = f"{_change(scale, against, estimate)}{where} over {_sample(estimate)}"
        reason += f"; the limit is {scale.text(scale.shown(decision.limit))}"
        reason += _evidence(scale, estimate, decision, kind) + remark
        if kind is VerdictKind.INCONCLUSIVE:
            more = stats.chunks_to_decide(
                estimate,
                decision.limit,
                alpha_pass=look.alpha_pass,
                alpha_regressed=look.alpha_regressed,
            )
            reason += _what_would_decide(seen, estimate, look, more)
    is_clear_gain = 0 < decision.limit < -decision.upper_bound
    if kind is VerdictKind.PASS and against == "baseline" and is_clear_gain:
        kind = VerdictKind.IMPROVED
    return Judgement(
        metric=scale.metric,
        against=against,
        verdict=kind,
        reason=reason,
        estimate=scale.shown(estimate.mean),
        low=scale.shown(decision.lower_bound),
        high=scale.shown(decision.upper_bound),
        limit=scale.shown(decision.limit),
        more_chunks=more,
    )


def _what_would_decide(
    seen: Observation, estimate: stats.PairedEstimate, look: stats.Look, more: int | None
) -> str:
    if more is not None and look.is_last:
        left = seen.n_chunks_in_text - estimate.chunks
        return f"; about {more:,} more chunks would decide ({_supply(seen, left, more)})"
    return f"; {_END_OF_TEXT}" if estimate.chunks == seen.n_chunks_in_text else ""


def _change(scale: Scale, against: str, estimate: stats.PairedEstimate) -> str:
    """Say how far a metric moved, with its interval of 95 %, or what it is where it has a limit."""
    value = scale.shown(estimate.mean)
    low, high = (scale.text(scale.shown(bound)) for bound in stats.interval(estimate))
    interval = f" (95 %: {low} to {high})" if math.isfinite(estimate.standard_error) else ""
    if against == "limit" or not math.isfinite(value):
        return f"{scale.name} {scale.text(value)}{interval}"
    direction = "rose" if value >= 0 else "fell"
    return f"{scale.name} {direction} by {scale.size(abs(value))}{interval}"


def _sample(estimate: stats.PairedEstimate) -> str:
    if estimate.clusters == estimate.chunks:
        return f"{estimate.chunks} chunks"
    return f"{estimate.chunks} chunks in {estimate.clusters} clusters"


def _evidence(
    scale: Scale, estimate: stats.PairedEstimate, decision: stats.Decision, kind: VerdictKind
) -> str:
    """Say what makes a change certain, or how uncertain it is."""
    if kind is VerdictKind.REGRESSED and decision.reason is stats.Reason.BOUND:
        bound = scale.text(scale.shown(decision.lower_bound))
        return f"; even at {100 - 100 * stats.ALPHA_REGRESSED:g} % confidence it is above {bound}"
    if kind is not VerdictKind.INCONCLUSIVE:
        return ""
    if decision.reason is not stats.Reason.BETWEEN:
        return f"; cannot tell: {decision.reason.value}"
    low, high = (scale.shown(bound) for bound in stats.interval(estimate))
    width = scale.points((high - low) / 2)
    return f"; cannot tell: {estimate.chunks} chunks fix the change to ±{width}"


def _supply(seen: Observation, left: int, more: int) -> str:
    """Say whether the text has what would decide, and how to get it."""
    if not left:
        return _END_OF_TEXT
    steps = "raise baseline_chunks"
    if seen.versus == THE_BASELINE:
        steps += " and store the baseline anew"
    if left < more:
        steps += ", and score another text besides"
    return f"the text has {left:,} more: {steps}"


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


def of_beginning(
    judgement: Judgement, estimate: stats.MeanEstimate | None, limit: float, look: stats.Look
) -> Judgement:
    """Return what a figure of the first chunks says of the figure of all that are to be scored.

    At the last look it is a fact; before, its bounds decide, and without an estimate nothing does.

    Args:
        judgement: of the figure so far, as a fact.
        estimate: the mean a token that the figure is of; None for a figure that is no mean.
        limit: in the estimate's unit.
        look: which errors may be spent.

    """
    if look.is_last or judgement.verdict is VerdictKind.INVALID:
        return judgement
    outcome = stats.Outcome.UNDECIDED
    if estimate is not None:
        outcome = stats.decide(
            estimate,
            limit,
            alpha_pass=look.alpha_pass,
            alpha_regressed=look.alpha_regressed,
            identical=False,
            last_look=False,
        ).outcome
    reason = judgement.reason
    if outcome is stats.Outcome.UNDECIDED:
        reason += f" on the first {look.chunks} chunks; the rest is not scored yet"
    return replace(judgement, verdict=KIND_OF_OUTCOME[outcome], reason=reason)


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
