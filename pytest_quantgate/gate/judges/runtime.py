"""A change of the runtime alone: when it is one, and what is decided of it."""

from __future__ import annotations

from dataclasses import replace

from pytest_quantgate import stats
from pytest_quantgate.config.limit import MIN_KLD_INCREASE_NATS
from pytest_quantgate.config.limits import default_limits
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gguf.formats import find_format
from pytest_quantgate.results.baseline import Baseline


def runtime_decision(
    seen: Observation, limits: Limits, baseline: Baseline, look: stats.Look
) -> stats.RuntimeDecision | None:
    """Decide on a change of the runtime alone; None where more changed, or too little is known.

    Tensors, metadata and tokens are the baseline's, and so is the reference within its own limit:
    else the distance from it would not be measured from the same point.
    """
    pair = seen.paired(baseline)
    before, after = pair.before.kld_sums, pair.after.kld_sums
    if (
        limits.ppl_vs_baseline is None
        or baseline.divergence is None
        or before is None
        or after is None
        or not len(pair)
        or pair.retokenized
        or dict(baseline.tensors_scored) != seen.cell.tensors
        or baseline.metadata != seen.cell.metadata
        or not _reference_stands(seen, look)
    ):
        return None
    perplexity = pair.nll()
    divergence = pair.after.difference(before, after)
    if perplexity.chunks_differing == 0:
        return None
    limit_nats = stats.ppl_limit_nats(limits.ppl_vs_baseline)
    return stats.decide_runtime_change(
        perplexity,
        divergence,
        ppl_limit_nats=limit_nats,
        kld_limit_nats=runtime_kld_limit_nats(limits, baseline, limit_nats),
        look=look,
    )


def runtime_kld_limit_nats(limits: Limits, baseline: Baseline, ppl_limit_nats: float) -> float:
    """Return how much a runtime may raise a cell's mean divergence.

    A limit that the project set is not raised to the rise that is harmless by default.
    """
    assert baseline.divergence is not None
    usual = default_limits(find_format(baseline.key.format)).kld_vs_baseline or 0.0
    share = usual if limits.kld_vs_baseline is None else limits.kld_vs_baseline
    return stats.kld_limit_nats(
        baseline.divergence.mean_kld_nats,
        ppl_limit_nats,
        share,
        least_nats=None if share == usual else MIN_KLD_INCREASE_NATS,
    )


def _reference_stands(seen: Observation, look: stats.Look) -> bool:
    """Return whether the reference's own perplexity is its baseline's, within its limit.

    In both directions: distances from a reference that became better are measured from another
    point too.
    """
    if seen.reference is None or seen.reference_baseline is None:
        return False
    stored = seen.reference_baseline.perplexity
    pair = None if stored is None else seen.reference.paired(stored.chunks)
    if pair is None or not len(pair) or pair.retokenized:
        return False
    estimate = pair.nll()
    limits = default_limits(find_format(seen.reference_baseline.key.format))
    backwards = replace(estimate, mean=-estimate.mean, skewness=-estimate.skewness)
    return all(
        stats.decide(
            change,
            stats.ppl_limit_nats(limits.ppl_vs_baseline or 0.0),
            alpha_pass=look.alpha_pass,
            alpha_regressed=look.alpha_regressed,
            identical=change.chunks_differing == 0,
            last_look=True,
        ).outcome
        is stats.Outcome.INSIDE
        for change in (estimate, backwards)
    )
