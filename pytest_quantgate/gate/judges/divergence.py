"""Divergence from the reference: against limits and the baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_quantgate import stats
from pytest_quantgate.config.limit import MAX_MEAN_KLD_NATS, MIN_KLD_INCREASE_NATS
from pytest_quantgate.config.limits import are_of_a_marker
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.bounds import (
    at_most,
    by_bounds,
    not_comparable,
    of_beginning,
    only,
)
from pytest_quantgate.gate.judges.drift import judge_drift
from pytest_quantgate.gate.judges.runtime import runtime_decision, runtime_kld_limit_nats
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gate.reasons.changes import NothingShown
from pytest_quantgate.gate.reasons.comparability import Plain, Retokenized, SectionMissing
from pytest_quantgate.gate.reasons.scales import KLD, OTHER_TOP, Scale, kld_change
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.chunk_table import ChunkTable
from pytest_quantgate.results.measurements.divergence import DivergenceMeasurement
from pytest_quantgate.results.verdicts import Against, Judgement, Reason, VerdictKind


def judge_divergence(
    seen: Observation, limits: Limits, baseline: Baseline | None, look: stats.Look
) -> list[Judgement]:
    """Judge the divergence from the reference; the reference itself has none."""
    chunks, divergence = seen.chunks, seen.cell.divergence
    if seen.reference is None and divergence is None:
        return []
    if divergence is None:
        # The default limits ask for it only where the baseline's engine could.
        asked = limits.kld_p99_max, limits.kld_p999_max, limits.same_top_min
        wanted = are_of_a_marker(limits) or any(asked) or limits.kld_mean_max != MAX_MEAN_KLD_NATS
        if not wanted and (baseline is None or baseline.divergence is None):
            return []
        fact = Plain.NO_DISTRIBUTIONS
        return [only("divergence", Against.REFERENCE, VerdictKind.UNSUPPORTED, fact)]
    sums = chunks.kld_sums
    if sums is None or not all(map(math.isfinite, sums)):
        fact = Plain.KLD_NOT_FINITE
        return [only("divergence", Against.REFERENCE, VerdictKind.INVALID, fact)]
    judgements = []
    if limits.kld_mean_max is not None:
        if limits.kld_mean_max == MAX_MEAN_KLD_NATS:
            judgements.append(_no_garbage(seen, divergence, chunks.mean(sums), baseline, look))
        else:
            judgements.append(_within(seen, KLD, chunks, sums, limits.kld_mean_max, look))
    for percentile, limit in (("99", limits.kld_p99_max), ("99.9", limits.kld_p999_max)):
        value = divergence.kld_percentiles_nats.get(percentile)
        if limit is not None and value is None:
            fact = Plain.NO_PERCENTILES
            judgements.append(only("divergence", Against.REFERENCE, VerdictKind.UNSUPPORTED, fact))
        elif limit is not None and value is not None:
            judgement = at_most("divergence", f"p{percentile} KLD", value, limit, " nats")
            judgements.append(of_beginning(judgement, None, limit, look))
    if limits.same_top_min is not None and seen.reference is not None:
        judgements += _same_top(seen, seen.reference, limits.same_top_min, look)
    if limits.kld_vs_baseline is not None and baseline is not None:
        judgements.append(_against_baseline(seen, limits, limits.kld_vs_baseline, baseline, look))
    if baseline is not None:
        judgements += judge_drift("divergence", seen, limits, baseline, look)
    return judgements


def _no_garbage(
    seen: Observation,
    divergence: DivergenceMeasurement,
    estimate: stats.MeanEstimate,
    baseline: Baseline | None,
    look: stats.Look,
) -> Judgement:
    """Judge by the default maximum, which is there for garbage: of all chunks it is a fact."""
    limit, whole = MAX_MEAN_KLD_NATS, seen.whole_of(baseline)
    if whole is not None and whole.divergence is not None:
        mean = whole.divergence.mean_kld_nats
        return at_most("divergence", "mean KLD", mean, limit, " nats")
    judgement = at_most("divergence", "mean KLD", divergence.mean_kld_nats, limit, " nats")
    return of_beginning(judgement, estimate, limit, look)


def _within(
    seen: Observation,
    scale: Scale,
    chunks: ChunkTable,
    sums: Sequence[float],
    limit: float,
    look: stats.Look,
) -> Judgement:
    """Judge a mean a token against a maximum.

    That a few tokens show nothing at all is no proof that none would: only what is the reference
    bit by bit shows nothing on every further chunk.
    """
    estimate, reference = chunks.excess(sums), seen.reference
    pair = None if reference is None else chunks.paired(reference)
    is_reference = pair is not None and pair.before.nll_sum_nats == pair.after.nll_sum_nats
    if estimate.chunks_differing == 0 and not is_reference:
        return _without_any(scale, estimate, limit, look)
    return by_bounds(scale, Against.LIMIT, estimate, limit, look, chunks, seen)


def _without_any(
    scale: Scale, estimate: stats.PairedEstimate, limit: float, look: stats.Look
) -> Judgement:
    """Judge a mean that is 0 on every token: if 1 − α^(1/n) of all show something, none of n may.

    That is the exact bound of Clopper and Pearson, which the rule of three approximates. No bound
    is as low as a limit of nothing at all: there the tokens that were to be scored decide.
    """
    tokens = estimate.tokens
    high = -math.expm1(math.log(look.alpha_pass) / tokens) if look.alpha_pass else math.inf
    enough = look.is_last if limit == 0 else high <= limit
    is_inside = enough and estimate.clusters >= stats.MIN_CLUSTERS
    kind = VerdictKind.PASS if is_inside else VerdictKind.INCONCLUSIVE
    fact = NothingShown(scale=scale, tokens=tokens, bound=high, limit=limit, is_enough=is_inside)
    return Judgement(
        metric=scale.metric,
        against=Against.LIMIT,
        verdict=kind,
        reason=Reason((fact,)),
        estimate=0.0,
        low=0.0,
        high=high,
        limit=limit,
    )


def _same_top(
    seen: Observation, reference: ChunkTable, least: float, look: stats.Look
) -> list[Judgement]:
    chunks = seen.chunks.paired(reference).after
    same = chunks.same_tops
    if same is None:
        return []
    others = [tokens - count for tokens, count in zip(chunks.tokens, same, strict=True)]
    return [_within(seen, OTHER_TOP, chunks, others, 1 - least, look)]


def _against_baseline(
    seen: Observation, limits: Limits, limit: float, baseline: Baseline, look: stats.Look
) -> Judgement:
    """Judge the increase over the baseline; what cannot be compared is never green."""
    obstacle = not_comparable(seen, baseline)
    if obstacle is not None:
        return only("divergence", Against.BASELINE, VerdictKind.NOT_COMPARABLE, obstacle)
    pair = seen.paired(baseline)
    if pair.retokenized:
        fact = Retokenized(changed=pair.retokenized, chunks=len(seen.chunks))
        return only("divergence", Against.BASELINE, VerdictKind.REGRESSED, fact)
    if baseline.divergence is None:
        missing = SectionMissing(what="divergence")
        return only("divergence", Against.NOTHING, VerdictKind.NO_BASELINE, missing)
    allowed = max(limit * baseline.divergence.mean_kld_nats, MIN_KLD_INCREASE_NATS)
    if runtime_decision(seen, limits, baseline, look) is not None:
        ppl_limit_nats = stats.ppl_limit_nats(limits.ppl_vs_baseline or 0.0)
        allowed = runtime_kld_limit_nats(limits, baseline, ppl_limit_nats)
    return by_bounds(
        kld_change(baseline.divergence.mean_kld_nats),
        Against.BASELINE,
        pair.after.difference(pair.before.kld_sums or (), pair.after.kld_sums or ()),
        allowed,
        look,
        pair.after,
        seen,
        final=seen.same_computation,
    )
