"""Routing: shares of tokens, which are facts of these tokens and have no interval."""

from __future__ import annotations

from pytest_quantgate.config.limit import MIN_ROUTE_INCREASE
from pytest_quantgate.config.limits import are_of_a_marker
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.bounds import not_comparable, only
from pytest_quantgate.gate.observation import Observation, Versus
from pytest_quantgate.gate.reasons.comparability import Plain, SectionMissing
from pytest_quantgate.gate.reasons.experts import (
    ExpertLoad,
    Minimum,
    OtherRoutes,
    RoutesChanged,
    SameRoutes,
)
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.baseline import Routing as Stored
from pytest_quantgate.results.measurements.routing import RoutingMeasurement
from pytest_quantgate.results.verdicts import (
    Against,
    Fact,
    Judgement,
    Reason,
    Stated,
    VerdictKind,
)
from pytest_quantgate.stats import Look

_AT_LEAST = {
    "same_experts_min": ("same_experts", "the reference's experts chosen on"),
    "same_top_expert_min": ("same_top_expert", "the reference's first expert chosen first on"),
    "shared_weight_min": ("shared_weight", "router weight on experts that both chose"),
}


def judge_routing(
    seen: Observation, limits: Limits, baseline: Baseline | None, _look: Look
) -> list[Judgement]:
    """Judge the routes against limits and the baseline."""
    measured = seen.find(RoutingMeasurement)
    if measured is None:
        return []
    stored = None if baseline is None else baseline.routing
    if measured.obstacle is not None:
        asked = (*(getattr(limits, name) for name in _AT_LEAST), limits.expert_load_max)
        # The default limits ask for it only where the baseline's engine could, and this kind can.
        is_needed = stored is not None and not measured.is_of_engine
        if not is_needed and not any(asked) and not are_of_a_marker(limits):
            return []
        return [
            only("routing", Against.REFERENCE, VerdictKind.UNSUPPORTED, Stated(measured.obstacle))
        ]
    judgements = []
    if not measured.is_reference:
        for name, (figure, words) in _AT_LEAST.items():
            limit = getattr(limits, name)
            if limit is not None:
                judgements.append(_at_least(words, getattr(measured, figure), limit))
        if limits.routing_vs_baseline is not None and baseline is not None:
            judgements.append(
                _against_baseline(
                    seen,
                    measured,
                    limits.routing_vs_baseline,
                    baseline,
                    is_asked=are_of_a_marker(limits),
                )
            )
    if limits.expert_load_max is not None:
        judgements.append(_load(measured, limits.expert_load_max))
    return judgements


def _at_least(words: str, share: float, limit: float) -> Judgement:
    kept = share >= limit
    return Judgement(
        metric="routing",
        against=Against.LIMIT,
        verdict=VerdictKind.PASS if kept else VerdictKind.REGRESSED,
        reason=Reason((Minimum(name=words, share=share, limit=limit),)),
        estimate=share,
        limit=limit,
    )


def _load(measured: RoutingMeasurement, limit: float) -> Judgement:
    layer = max(measured.layers, key=lambda item: max(item.load))
    share = max(layer.load)
    expert = layer.load.index(share)
    fact = ExpertLoad(expert=expert, layer=layer.layer, share=share, limit=limit)
    return Judgement(
        metric="routing",
        against=Against.LIMIT,
        verdict=VerdictKind.PASS if share <= limit else VerdictKind.REGRESSED,
        reason=Reason((fact,)),
        estimate=share,
        limit=limit,
    )


def _against_baseline(
    seen: Observation,
    measured: RoutingMeasurement,
    limit: float,
    baseline: Baseline,
    *,
    is_asked: bool,
) -> Judgement:
    """Judge the share of changed routes; what cannot be compared is never green.

    ``is_asked``: a test asks for it by name.
    """
    obstacle = not_comparable(seen, baseline)
    if obstacle is not None:
        return only("routing", Against.BASELINE, VerdictKind.NOT_COMPARABLE, obstacle)
    if seen.paired(baseline).retokenized:
        fact = Plain.OTHER_TOKENS_ROUTED
        return only("routing", Against.BASELINE, VerdictKind.REGRESSED, fact)
    stored = baseline.routing
    if stored is None and seen.versus is Versus.OLD_ENGINE and not is_asked:
        # An engine of programs reports none: the rest is compared all the same.
        fact = Plain.OLD_ENGINE_WITHOUT_ROUTES
        return only("routing", Against.NOTHING, VerdictKind.MEASURED, fact)
    if stored is None:
        missing = SectionMissing(what="routes")
        return only("routing", Against.NOTHING, VerdictKind.NO_BASELINE, missing)
    return _change(seen, measured, limit, stored)


def _change(
    seen: Observation, measured: RoutingMeasurement, limit: float, stored: Stored
) -> Judgement:
    """Judge the share of changed routes on the common chunks."""
    then = dict(zip(stored.index, stored.chunk_same_experts, strict=True))
    now = dict(zip(measured.chunk_indices, measured.chunk_same_experts, strict=True))
    common = then.keys() & now.keys()
    if not common or stored.layers != tuple(layer.layer for layer in measured.layers):
        other = OtherRoutes(versus=seen.versus)
        return only("routing", Against.BASELINE, VerdictKind.NOT_COMPARABLE, other)
    per_chunk = stored.tokens // len(stored.index) * len(stored.layers)
    changed_then, changed_now = (
        1 - sum(counts[index] for index in common) / (per_chunk * len(common))
        for counts in (then, now)
    )
    allowed = max(limit * changed_then, MIN_ROUTE_INCREASE)
    rise = changed_now - changed_then
    verdict = VerdictKind.PASS if rise <= allowed else VerdictKind.REGRESSED
    if rise < -allowed:
        verdict = VerdictKind.IMPROVED
    layer_rise, layer = _worst_layer(measured, stored)
    fact: Fact = RoutesChanged(
        versus=seen.versus,
        rise=rise,
        share=changed_now,
        limit=allowed,
        layer=layer,
        layer_rise=layer_rise,
    )
    if all(then[index] == now[index] for index in common):
        fact = SameRoutes(versus=seen.versus, share=1 - changed_now)
    return Judgement(
        metric="routing",
        against=Against.BASELINE,
        verdict=verdict,
        reason=Reason((fact,)),
        estimate=rise,
        limit=allowed,
    )


def _worst_layer(measured: RoutingMeasurement, stored: Stored) -> tuple[float, int]:
    """Return by how much the layer that moved most did, and which it is."""
    return max(
        (then / stored.tokens - layer.same_experts / layer.tokens, layer.layer)
        for then, layer in zip(stored.same_experts, measured.layers, strict=True)
    )
