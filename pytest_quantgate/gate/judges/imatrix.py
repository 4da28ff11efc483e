"""The importance matrix's coverage: the expert that saw fewest tokens decides."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_quantgate.config.limits import are_of_a_marker
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.bounds import only
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gate.reasons.experts import Coverage, ExpertsUncounted, WithoutExperts
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.measurements.imatrix import Expert, ImatrixMeasurement
from pytest_quantgate.results.verdicts import Against, Judgement, Reason, VerdictKind
from pytest_quantgate.stats import Look


def judge_imatrix(
    seen: Observation, limits: Limits, _baseline: Baseline | None, _look: Look
) -> list[Judgement]:
    """Judge how many tokens each expert saw; a limit of 0 asks for nothing."""
    measured, limit = seen.find(ImatrixMeasurement), limits.imatrix_min_tokens_per_expert
    if measured is None or not limit:
        return []
    if measured.uncounted_layers:
        fact = ExpertsUncounted(imatrix=measured.imatrix, layer=measured.uncounted_layers[0])
        return [only("imatrix", Against.LIMIT, VerdictKind.INVALID, fact)]
    experts = measured.experts
    if not experts:
        # What a test asks for by name must be judged; what the profile asks of every cell need not.
        if not are_of_a_marker(limits):
            return []
        dense = WithoutExperts(imatrix=measured.imatrix)
        return [only("imatrix", Against.LIMIT, VerdictKind.UNSUPPORTED, dense)]
    return [_coverage(measured.imatrix, experts, limit)]


def _coverage(imatrix: str, experts: Sequence[Expert], limit: float) -> Judgement:
    """Judge the expert that saw fewest tokens, which comes first."""
    least, below = experts[0], sum(item.tokens < limit for item in experts)
    fact = Coverage(imatrix=imatrix, least=least, below=below, experts=len(experts), limit=limit)
    return Judgement(
        metric="imatrix",
        against=Against.LIMIT,
        verdict=VerdictKind.REGRESSED if below else VerdictKind.PASS,
        reason=Reason((fact,)),
        estimate=least.tokens,
        limit=limit,
    )
