"""Perplexity: against a maximum, the reference, the baseline and the anchor."""

from __future__ import annotations

import math
from dataclasses import replace

from pytest_quantgate import stats
from pytest_quantgate.config.limits import are_of_a_marker
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.bounds import (
    at_most,
    by_bounds,
    by_decision,
    not_comparable,
    of_beginning,
    only,
)
from pytest_quantgate.gate.judges.domains import judge_domains
from pytest_quantgate.gate.judges.drift import judge_drift
from pytest_quantgate.gate.judges.runtime import runtime_decision
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gate.reasons.changes import RuntimeAlone, TokensMoved
from pytest_quantgate.gate.reasons.comparability import Plain, Retokenized
from pytest_quantgate.gate.reasons.scales import PPL
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.chunk_table import ChunkPair
from pytest_quantgate.results.verdicts import Against, Judgement, VerdictKind


def judge_perplexity(
    seen: Observation, limits: Limits, baseline: Baseline | None, look: stats.Look
) -> list[Judgement]:
    """Judge perplexity against each limit that is set."""
    measured = seen.chunks
    if not measured.is_finite or not math.isfinite(measured.perplexity):
        fact = Plain.NLL_NOT_FINITE
        return [only("perplexity", Against.LIMIT, VerdictKind.INVALID, fact)]
    judgements = []
    if limits.ppl_max is not None:
        judgements.append(_within(seen, limits.ppl_max, baseline, look))
    if seen.reference is not None and limits.ppl_vs_reference is not None:
        pair = measured.paired(seen.reference)
        limit = stats.ppl_limit_nats(limits.ppl_vs_reference)
        judgements.append(_judge_pair(seen, Against.REFERENCE, pair, limit, look))
    if baseline is None or all(
        limit is None for limit in (limits.ppl_vs_baseline, limits.ppl_vs_anchor, limits.domains)
    ):
        return judgements
    obstacle = not_comparable(seen, baseline)
    if obstacle is not None:
        judgements.append(
            only("perplexity", Against.BASELINE, VerdictKind.NOT_COMPARABLE, obstacle)
        )
        return [*judgements, *judge_drift("perplexity", seen, limits, baseline, look)]
    changed = seen.paired(baseline).retokenized
    if changed:
        retokenized = Retokenized(changed=changed, chunks=len(measured))
        judgements.append(only("perplexity", Against.BASELINE, VerdictKind.REGRESSED, retokenized))
        return judgements
    if limits.ppl_vs_baseline is not None:
        judgements.append(_judge_change(seen, limits, limits.ppl_vs_baseline, baseline, look))
    if limits.domains is not None:
        judgements += judge_domains(
            seen, limits.domains, baseline, look, is_asked=are_of_a_marker(limits)
        )
    return [*judgements, *judge_drift("perplexity", seen, limits, baseline, look)]


def _within(
    seen: Observation, limit: float, baseline: Baseline | None, look: stats.Look
) -> Judgement:
    """Judge the perplexity of all chunks that are to be scored against a maximum."""
    whole = seen.whole_of(baseline)
    if whole is not None:
        return at_most("perplexity", "PPL", whole.scored.ppl, limit, "")
    chunks = seen.chunks
    judgement = at_most("perplexity", "PPL", chunks.perplexity, limit, "")
    return of_beginning(judgement, chunks.mean(chunks.nll_sum_nats), math.log(limit), look)


def _judge_change(
    seen: Observation, limits: Limits, limit: float, baseline: Baseline, look: stats.Look
) -> Judgement:
    """Judge the change since the last acceptance."""
    pair = seen.paired(baseline)
    nats = stats.ppl_limit_nats(limit)
    runtime = runtime_decision(seen, limits, baseline, look)
    if runtime is None:
        change = _judge_pair(seen, Against.BASELINE, pair, nats, look, final=seen.same_computation)
    else:
        change = _of_runtime(seen, pair, runtime, look)
    tokens = seen.tokens_changed
    if change.verdict.is_green and tokens is not None and tokens.changed:
        # A red verdict says so in its cause.
        change = replace(change, reason=change.reason.also(TokensMoved(changes=tokens)))
    return change


def _of_runtime(
    seen: Observation, pair: ChunkPair, runtime: stats.RuntimeDecision, look: stats.Look
) -> Judgement:
    """Judge what equal weights give: the divergence vouches for what perplexity cannot tell."""
    decision, remark = runtime.perplexity, None
    if runtime.outcome is stats.Outcome.INSIDE and decision.outcome is not stats.Outcome.INSIDE:
        remark = RuntimeAlone(most=stats.ppl_change(runtime.perplexity_allowance.upper_bound))
        decision = replace(decision, outcome=stats.Outcome.INSIDE)
    judgement = by_decision(PPL, Against.BASELINE, pair.nll(), decision, look, pair.after, seen)
    return replace(judgement, reason=judgement.reason.also(remark))


def _judge_pair(
    seen: Observation,
    against: Against,
    pair: ChunkPair,
    limit_nats: float,
    look: stats.Look,
    *,
    final: bool = False,
) -> Judgement:
    return by_bounds(PPL, against, pair.nll(), limit_nats, look, pair.after, seen, final=final)
