"""Size and tensor types: against limits, the reference and the baseline."""

from __future__ import annotations

from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.bounds import (
    at_most,
    grown_bytes,
    not_comparable,
    only,
    other_source,
)
from pytest_quantgate.gate.judges.drift import judge_drift
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gate.reasons.comparability import TypesChanged
from pytest_quantgate.gguf.tensor_changes import compare_tensors
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.verdicts import Against, Judgement, VerdictKind
from pytest_quantgate.stats import Look


def judge_size(
    seen: Observation, limits: Limits, baseline: Baseline | None, look: Look
) -> list[Judgement]:
    """Judge size and tensor types against each limit that is set."""
    judgements = _maxima(seen, limits)
    if limits.size_vs_reference is not None and seen.reference_file_bytes is not None:
        first_bytes, limit = seen.reference_file_bytes, limits.size_vs_reference
        judgements.append(_grown(seen, Against.REFERENCE, first_bytes, limit))
    if baseline is None:
        return judgements
    other = other_source(seen, baseline)
    if limits.size_vs_baseline is not None and other is not None:
        return [*judgements, only("size", Against.BASELINE, VerdictKind.NOT_COMPARABLE, other)]
    if limits.size_vs_baseline is not None:
        changes = compare_tensors(baseline.size.tensors, seen.cell.tensors)
        if not_comparable(seen, baseline) is None and changes.types_changed:
            types = TypesChanged(changes=changes)
            judgements.append(only("size", Against.BASELINE, VerdictKind.CHANGED, types))
        before_bytes, limit = baseline.size.file_bytes, limits.size_vs_baseline
        judgements.append(_grown(seen, Against.BASELINE, before_bytes, limit))
    return [*judgements, *judge_drift("size", seen, limits, baseline, look)]


def _maxima(seen: Observation, limits: Limits) -> list[Judgement]:
    cell = seen.cell
    fallback = "share of the bytes in fallback types"
    rows = (
        ("size", cell.bits_per_weight or 0.0, limits.bits_per_weight_max, " bits per weight"),
        ("size", seen.file_bytes, limits.size_max_bytes, " bytes"),
        (fallback, cell.fallback_fraction or 0.0, limits.fallback_max, ""),
    )
    return [
        at_most("size", name, value, limit, unit)
        for name, value, limit, unit in rows
        if limit is not None
    ]


def _grown(seen: Observation, against: Against, before_bytes: int, limit: float) -> Judgement:
    return grown_bytes("size", "size", against, seen, seen.file_bytes, before_bytes, limit)
