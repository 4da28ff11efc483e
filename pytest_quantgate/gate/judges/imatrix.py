"""The importance matrix's coverage: the expert that saw fewest tokens decides."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_quantgate.config.limits import are_of_a_marker
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.bounds import only
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.measurements.imatrix import NO_EXPERTS, Expert, ImatrixMeasurement
from pytest_quantgate.results.verdicts import Judgement, VerdictKind
from pytest_quantgate.stats import Look


def judge_imatrix(
    seen: Observation, limits: Limits, _baseline: Baseline | None, _look: Look
) -> list[Judgement]:
    """Judge how many tokens each expert saw; a limit of 0 asks for nothing."""
    measured, limit = seen.find(ImatrixMeasurement), limits.imatrix_min_tokens_per_expert
    if measured is None or not limit:
        return []
    name = f"importance matrix {measured.imatrix!r}"
    if measured.uncounted_layers:
        layer = measured.uncounted_layers[0]
        reason = (
            f"{name} has one count for all experts of layer {layer}, so it is unknown what each"
            " saw; make it anew with a current llama-imatrix, or set"
            " imatrix_min_tokens_per_expert = 0"
        )
        return [only("imatrix", "limit", VerdictKind.INVALID, reason)]
    experts = measured.experts
    if not experts:
        # What a test asks for by name must be judged; what the profile asks of every cell need not.
        reason = f"{name}: {NO_EXPERTS}"
        is_asked = are_of_a_marker(limits)
        return [only("imatrix", "limit", VerdictKind.UNSUPPORTED, reason)] if is_asked else []
    return [_coverage(name, experts, limit)]


def _coverage(name: str, experts: Sequence[Expert], limit: float) -> Judgement:
    """Judge the expert that saw fewest tokens, which comes first."""
    least, below = experts[0], sum(item.tokens < limit for item in experts)
    if not below:
        kind = VerdictKind.PASS
        reason = f"{name}: {least.name} saw least of {len(experts)}, limit {limit:,}"
    else:
        kind = VerdictKind.REGRESSED
        reason = (
            f"{name}: {below} of {len(experts)} experts saw fewer than {limit:,} tokens, least"
            f" {least.name}; take a longer text, or one that needs them"
        )
    return Judgement(
        metric="imatrix",
        against="limit",
        verdict=kind,
        reason=reason,
        estimate=least.tokens,
        limit=limit,
    )
