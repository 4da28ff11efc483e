"""Domains: a loss in one kind of text that the mean over all of them hides."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pytest_quantgate import stats
from pytest_quantgate.config.limit import ALL_DOMAINS
from pytest_quantgate.config.limits import by_domain
from pytest_quantgate.gate.judges.bounds import only
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gate.reasons.changes import DomainRose, DomainUnknown, NoDomainRose, NoDomains
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.chunk_table import ChunkPair
from pytest_quantgate.results.verdicts import Against, Judgement, Reason, VerdictKind

ALPHA_DOUBTFUL = 0.01
"""Error that all domains of a cell share for a rise that is no accident but not certain either."""

MIN_CLUSTERS = 4
"""Documents below which nothing is said of a domain; t is above 10 with so few."""


def judge_domains(
    seen: Observation,
    limit: float | Mapping[str, float],
    baseline: Baseline,
    look: stats.Look,
    *,
    is_asked: bool,
) -> list[Judgement]:
    """Judge the rise of each domain's perplexity; the domains share the errors of a look.

    A domain has a part of the text alone, so that its bounds are wide: one that stays below the
    limit, or cannot be told from chance, is no reason to fail a cell whose whole text is judged
    too. REGRESSED is a domain that is above the limit with the certainty of the whole text's
    judgement, INCONCLUSIVE one whose rise is above the limit and beyond chance. Where nothing
    speaks against a cell only a limit that a test asks for by name (``is_asked``) is told of:
    PASS, or UNSUPPORTED where no domain could be judged. A domain that the limit names
    must have documents enough, whoever asks.
    """
    limits = by_domain(limit)
    rest = limits.get(ALL_DOMAINS)
    own = {name: value for name, value in limits.items() if name != ALL_DOMAINS}
    if not is_asked:  # a profile's limits hold for all of its texts
        own = {name: value for name, value in own.items() if name in seen.domains}
    others = {} if rest is None else dict.fromkeys(seen.chunks.by_domain(), rest)
    limit_of = {**others, **own}
    estimates = _estimates(seen.paired(baseline), limit_of)
    judgements = [
        judgement
        for name, estimate in estimates.items()
        if (judgement := _judge(seen, name, estimate, limit_of[name], look, len(estimates)))
    ]
    judgements += [_unknown(name, look) for name in own if name not in estimates]
    if judgements or not is_asked:
        return judgements
    if not estimates:
        fact = NoDomains(min_documents=MIN_CLUSTERS)
        return [only("perplexity", Against.NOTHING, VerdictKind.UNSUPPORTED, fact)]
    unmoved = NoDomainRose(limits={name: limit_of[name] for name in estimates})
    return [only("perplexity", Against.BASELINE, VerdictKind.PASS, unmoved)]


def _unknown(name: str, look: stats.Look) -> Judgement:
    """Judge a domain that a limit names and that cannot be judged, or not yet."""
    kind = VerdictKind.UNSUPPORTED if look.is_last else VerdictKind.INCONCLUSIVE
    fact = DomainUnknown(domain=name, min_documents=MIN_CLUSTERS)
    return only("perplexity", Against.BASELINE, kind, fact)


def _estimates(pair: ChunkPair, names: Collection[str]) -> dict[str, stats.PairedEstimate]:
    """Return the change of each domain that has documents enough; none of a text of one domain."""
    domains = pair.after.by_domain()
    if len(domains) < 2:
        return {}  # the whole text is the domain
    estimates = {}
    for name, after in domains.items():
        before = pair.before.of_chunks(after.index)
        estimate = after.difference(before.nll_sum_nats, after.nll_sum_nats)
        if name in names and estimate.clusters >= MIN_CLUSTERS:
            estimates[name] = estimate
    return estimates


def _judge(
    seen: Observation,
    name: str,
    estimate: stats.PairedEstimate,
    limit: float,
    look: stats.Look,
    n_domains: int,
) -> Judgement | None:
    """Judge one domain; None where nothing speaks against it."""
    if estimate.chunks_differing == 0:
        return None
    limit_nats = stats.ppl_limit_nats(limit)
    certain = stats.lower_bound(estimate, look.alpha_regressed / n_domains)
    beyond_chance = stats.lower_bound(estimate, ALPHA_DOUBTFUL / n_domains)
    if certain > limit_nats:
        kind = VerdictKind.REGRESSED
    elif estimate.mean > limit_nats and beyond_chance > 0:
        kind = VerdictKind.INCONCLUSIVE
    else:
        return None
    rise = DomainRose(
        domain=name,
        versus=seen.versus,
        estimate=estimate,
        limit=limit,
        is_certain=kind is VerdictKind.REGRESSED,
    )
    return Judgement(
        metric="perplexity",
        against=Against.BASELINE,
        verdict=kind,
        reason=Reason((rise,)),
        estimate=stats.ppl_change(estimate.mean),
        low=stats.ppl_change(certain),
        limit=limit,
    )
