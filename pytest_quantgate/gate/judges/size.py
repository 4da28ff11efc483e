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
    cell, file_bytes = seen.cell, seen.file_bytes
    judgements = []
    if limits.bits_per_weight_max is not None:
        limit = limits.bits_per_weight_max
        judgements.append(
            at_most("size", "size", cell.bits_per_weight or 0.0, limit, " bits per weight")
        )
    if limits.size_max_bytes is not None:
        judgements.append(at_most("size", "size", file_bytes, limits.size_max_bytes, " bytes"))
    if limits.fallback_max is not None:
        name = "share of the bytes in fallback types"
        judgements.append(
            at_most("size", name, cell.fallback_fraction or 0.0, limits.fallback_max, "")
        )
    if limits.size_vs_reference is not None and seen.reference_file_bytes is not None:
        judgements.append(
            grown_bytes(
                "size",
                "size",
                Against.REFERENCE,
                seen,
                file_bytes,
                seen.reference_file_bytes,
                limits.size_vs_reference,
            )
        )
    if limits.size_vs_baseline is not None and baseline is not None:
        other = other_source(seen, baseline)
        if other is not None:
            return [*judgements, only("size", Against.BASELINE, VerdictKind.NOT_COMPARABLE, other)]
        changes = compare_tensors(baseline.size.tensors, cell.tensors)
        if not_comparable(seen, baseline) is None and changes.types_changed:
            types = TypesChanged(changes=changes)
            judgements.append(only("size", Against.BASELINE, VerdictKind.CHANGED, types))
        judgements.append(
            grown_bytes(
                "size",
                "size",
                Against.BASELINE,
                seen,
                file_bytes,
                baseline.size.file_bytes,
                limits.size_vs_baseline,
            )
        )
    if baseline is not None:
        judgements += judge_drift("size", seen, limits, baseline, look)
    return judgements
