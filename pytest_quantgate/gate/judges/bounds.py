"""What all metrics are judged with: looks, confidence bounds, plain maxima, comparability.

Every rule is written as "pass only if": a number that is not finite never passes.
"""

from __future__ import annotations

import math
from dataclasses import replace

from pytest_quantgate import stats
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gate.reasons.changes import (
    Change,
    Growth,
    Identical,
    Maximum,
    MoreChunks,
    OfBeginning,
)
from pytest_quantgate.gate.reasons.comparability import (
    NoCommonChunks,
    OtherSource,
    OtherText,
    Plain,
)
from pytest_quantgate.gate.reasons.scales import Scale
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.chunk_table import ChunkTable
from pytest_quantgate.results.verdicts import Against, Fact, Judgement, Reason, VerdictKind

KIND_OF_OUTCOME = {
    stats.Outcome.INSIDE: VerdictKind.PASS,
    stats.Outcome.OUTSIDE: VerdictKind.REGRESSED,
    stats.Outcome.UNDECIDED: VerdictKind.INCONCLUSIVE,
    stats.Outcome.NOT_FINITE: VerdictKind.INVALID,
}


def by_bounds(
    scale: Scale,
    against: Against,
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
    against: Against,
    estimate: stats.PairedEstimate,
    decision: stats.Decision,
    look: stats.Look,
    chunks: ChunkTable,
    seen: Observation,
) -> Judgement:
    """Return a decision as a judgement; arguments as in `by_bounds`."""
    kind, more = KIND_OF_OUTCOME[decision.outcome], None
    is_undecided = kind is VerdictKind.INCONCLUSIVE
    facts: tuple[Fact, ...] = ()
    if decision.reason is stats.Reason.IDENTICAL or estimate.chunks_differing == 0:
        facts = (_identical(scale, against, estimate, decision, chunks, seen),)
    else:
        if is_undecided:
            more = _more_chunks(estimate, decision, look)
            facts = _what_would_decide(seen, estimate, look, more)
        change = Change(
            scale=scale, against=against, versus=seen.versus, estimate=estimate, decision=decision
        )
        facts = (change, *facts)
    is_clear_gain = 0 < decision.limit < -decision.upper_bound
    if kind is VerdictKind.PASS and against is Against.BASELINE and is_clear_gain:
        kind = VerdictKind.IMPROVED
    return Judgement(
        metric=scale.metric,
        against=against,
        verdict=kind,
        reason=Reason(facts),
        estimate=scale.shown(estimate.mean),
        low=scale.shown(decision.lower_bound),
        high=scale.shown(decision.upper_bound),
        limit=scale.shown(decision.limit),
        more_chunks=more,
    )


def _identical(
    scale: Scale,
    against: Against,
    estimate: stats.PairedEstimate,
    decision: stats.Decision,
    chunks: ChunkTable,
    seen: Observation,
) -> Identical:
    is_undecided = decision.outcome is stats.Outcome.UNDECIDED
    return Identical(
        name=scale.name,
        against=against,
        versus=seen.versus,
        tokens=estimate.tokens,
        is_exact=chunks.is_exact,
        undecided=decision.reason if is_undecided else None,
    )


def _more_chunks(
    estimate: stats.PairedEstimate, decision: stats.Decision, look: stats.Look
) -> int | None:
    return stats.chunks_to_decide(
        estimate,
        decision.limit,
        alpha_pass=look.alpha_pass,
        alpha_regressed=look.alpha_regressed,
    )


def _what_would_decide(
    seen: Observation, estimate: stats.PairedEstimate, look: stats.Look, more: int | None
) -> tuple[Fact, ...]:
    left = seen.n_chunks_in_text - estimate.chunks
    if more is not None and look.is_last:
        return (MoreChunks(more=more, left=left, versus=seen.versus),)
    return () if left else (Plain.END_OF_TEXT,)


def at_most(metric: str, name: str, value: float, limit: float, unit: str) -> Judgement:
    """Judge a number that has no sampling error against a maximum."""
    if not math.isfinite(value):
        verdict = VerdictKind.INVALID
    else:
        verdict = VerdictKind.PASS if value <= limit else VerdictKind.REGRESSED
    return Judgement(
        metric=metric,
        against=Against.LIMIT,
        verdict=verdict,
        reason=Reason((Maximum(name=name, value=value, limit=limit, unit=unit),)),
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
        reason = reason.also(OfBeginning(chunks=look.chunks))
    return replace(judgement, verdict=KIND_OF_OUTCOME[outcome], reason=reason)


def grown_bytes(
    metric: str,
    name: str,
    against: Against,
    seen: Observation,
    now_bytes: int,
    before_bytes: int,
    limit: float,
) -> Judgement:
    """Judge how much a number of bytes grew, relative to what it was."""
    change = now_bytes / before_bytes - 1
    growth = Growth(
        name=name,
        against=against,
        versus=seen.versus,
        now_bytes=now_bytes,
        before_bytes=before_bytes,
        limit=limit,
    )
    return Judgement(
        metric=metric,
        against=against,
        verdict=VerdictKind.PASS if change <= limit else VerdictKind.REGRESSED,
        reason=Reason((growth,)),
        estimate=change,
        limit=limit,
    )


def only(metric: str, against: Against, verdict: VerdictKind, fact: Fact) -> Judgement:
    """Return a verdict that needs no figures."""
    return Judgement(metric=metric, against=against, verdict=verdict, reason=Reason((fact,)))


def other_source(seen: Observation, baseline: Baseline) -> OtherSource | None:
    """Return that a model was made from another file than the baseline's, or None."""
    before, now = baseline.source_sha256, seen.cell.source_sha256
    if before is None or now is None or before == now:
        return None
    return OtherSource(versus=seen.versus, now=now, before=before)


def not_comparable(seen: Observation, baseline: Baseline) -> Fact | None:
    """Return why a measurement and a baseline cannot be compared, or None."""
    stored = baseline.perplexity
    text_sha256 = seen.cell.text_sha256
    if stored is not None and stored.text_sha256 != text_sha256:
        return OtherText(
            versus=seen.versus,
            now_sha256=text_sha256,
            before_sha256=stored.text_sha256,
            is_crlf=stored.text_sha256 == seen.text_sha256_with_lf,
        )
    other = other_source(seen, baseline)
    if other is not None:
        return other
    if not len(seen.chunks) or stored is None or len(seen.paired(baseline)):
        return None
    return NoCommonChunks(versus=seen.versus)
