"""Memory: the peak of a fresh process against a maximum and the baseline of this hardware."""

from __future__ import annotations

from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.bounds import at_most, grown_bytes, only, other_source
from pytest_quantgate.gate.judges.hardware import find_stored, verdict_of_missing, with_build
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gate.reasons.comparability import Plain
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.measurements.memory import MemoryMeasurement
from pytest_quantgate.results.verdicts import Against, Fact, Judgement, VerdictKind
from pytest_quantgate.stats import Look

_SETTINGS = ("n_ctx", "n_batch", "n_ubatch")


def judge_memory(
    seen: Observation, limits: Limits, baseline: Baseline | None, _look: Look
) -> list[Judgement]:
    """Judge the peak resident memory against each limit that is set."""
    measured = seen.find(MemoryMeasurement)
    if measured is None:
        return []
    peak, asked = measured.peak_resident_bytes, limits.resident_vs_baseline
    if peak is None:
        if limits.resident_max_bytes is None and asked is None:
            return []
        fact = Plain.NO_PEAK_MEMORY
        return [only("memory", Against.LIMIT, VerdictKind.UNSUPPORTED, fact)]
    judgements = []
    if limits.resident_max_bytes is not None:
        judgements.append(
            at_most("memory", "peak memory", peak, limits.resident_max_bytes, " bytes")
        )
    allowed = limits.resident_vs_same_hardware if asked is None else asked
    if allowed is None or baseline is None:
        return judgements
    return [*judgements, _against_baseline(seen, measured, peak, allowed, baseline, asked)]


def _against_baseline(
    seen: Observation,
    measured: MemoryMeasurement,
    peak_bytes: int,
    allowed: float,
    baseline: Baseline,
    asked: float | None,
) -> Judgement:
    other = other_source(seen, baseline)
    if other is not None:
        return only("memory", Against.BASELINE, VerdictKind.NOT_COMPARABLE, other)
    stored = find_stored("memory", baseline.memory, measured, _SETTINGS)
    if isinstance(stored, Fact):
        # The default limit is there only where it can be kept.
        kind = VerdictKind.MEASURED if asked is None else verdict_of_missing(stored)
        return only("memory", Against.NOTHING, kind, stored)
    before = stored.peak_resident_bytes
    grown = grown_bytes(
        "memory", "peak memory", Against.BASELINE, seen, peak_bytes, before, allowed
    )
    return with_build(grown, measured.fingerprint, stored)
