"""Perplexity: against a maximum, the reference, the baseline and the anchor."""

from __future__ import annotations

import math
from dataclasses import replace

from pytest_quantgate import stats
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.bounds import (
    Look,
    Scale,
    against_column,
    at_most,
    by_bounds,
    not_comparable,
    only,
)
from pytest_quantgate.gate.observation import (
    Observation,
    describe_token_changes,
    percent,
    token_ids_changed,
)
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.measurements.perplexity import common_chunks
from pytest_quantgate.results.verdicts import Judgement, VerdictKind

_PPL = Scale(metric="perplexity", name="PPL", shown=stats.ppl_change, text=percent)


def judge_perplexity(
    seen: Observation, limits: Limits, baseline: Baseline | None, look: Look
) -> list[Judgement]:
    """Judge perplexity against each limit that is set."""
    measured = seen.scored
    if not measured.is_finite or not math.isfinite(measured.perplexity):
        reason = "a token's log-likelihood is not finite"
        return [only("perplexity", "limit", VerdictKind.INVALID, reason)]
    judgements = []
    if limits.ppl_max is not None:
        judgements.append(at_most("perplexity", "PPL", measured.perplexity, limits.ppl_max, ""))
    if seen.reference is not None and limits.ppl_vs_reference is not None:
        mine, theirs = common_chunks(measured, seen.reference)
        judgements.append(
            by_bounds(
                _PPL,
                "reference",
                [seen.reference.chunks[i].nll_sum_nats for i in theirs],
                [measured.chunks[i].nll_sum_nats for i in mine],
                [measured.chunks[i] for i in mine],
                stats.ppl_limit_nats(limits.ppl_vs_reference),
                look,
                measured.n_chunks_in_text,
            )
        )
    if baseline is None or (limits.ppl_vs_baseline is None and limits.ppl_vs_anchor is None):
        return judgements
    obstacle = not_comparable(seen, baseline)
    if obstacle is not None:
        judgements.append(only("perplexity", "baseline", VerdictKind.NOT_COMPARABLE, obstacle))
        return judgements
    changed = token_ids_changed(seen, baseline)
    if changed:
        reason = f"the same text has other token ids in {changed} of {len(measured.chunks)} chunks"
        judgements.append(only("perplexity", "baseline", VerdictKind.REGRESSED, reason))
        return judgements
    if limits.ppl_vs_baseline is not None:
        judgements.append(_judge_change(seen, limits.ppl_vs_baseline, baseline, look))
    if limits.ppl_vs_anchor is not None:
        judgements += _judge_drift(seen, limits, limits.ppl_vs_anchor, baseline, look)
    return judgements


def _judge_change(seen: Observation, limit: float, baseline: Baseline, look: Look) -> Judgement:
    """Judge the change since the last acceptance."""
    change = against_column(
        _PPL,
        seen,
        baseline,
        baseline.scored.chunks.nll_sum_nats,
        lambda chunk: chunk.nll_sum_nats,
        stats.ppl_limit_nats(limit),
        look,
    )
    tokens = seen.tokens_changed
    if change.verdict.is_green and tokens is not None and tokens.changed:
        # A red verdict says so in its cause.
        change = replace(change, reason=f"{change.reason}; {describe_token_changes(tokens)}")
    return change


def _judge_drift(
    seen: Observation, limits: Limits, limit: float, baseline: Baseline, look: Look
) -> list[Judgement]:
    """Judge the sum of the accepted changes: steps that are small each can add up.

    Nothing where the limit against the baseline says it already: no change was accepted yet, and
    that limit is no wider.
    """
    accepted = dict(
        zip(baseline.scored.chunks.index, baseline.scored.chunks.nll_sum_nats, strict=True)
    )
    first = dict(zip(baseline.anchor.index, baseline.anchor.nll_sum_nats, strict=True))
    moved = any(first.get(index, value) != value for index, value in accepted.items())
    if not moved and limits.ppl_vs_baseline is not None and limits.ppl_vs_baseline <= limit:
        return []
    chunks = [chunk for chunk in seen.scored.chunks if chunk.index in first]
    if not chunks:
        reason = "the first accepted baseline has none of the chunks that were measured"
        return [only("perplexity", "anchor", VerdictKind.NOT_COMPARABLE, reason)]
    return [
        by_bounds(
            _PPL,
            "anchor",
            [first[chunk.index] for chunk in chunks],
            [chunk.nll_sum_nats for chunk in chunks],
            chunks,
            stats.ppl_limit_nats(limit),
            look,
            seen.scored.n_chunks_in_text,
            final=seen.same_computation,
        )
    ]
