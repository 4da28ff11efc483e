"""Batch geometry: the one that is furthest from one batch decides."""

from __future__ import annotations

from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.bounds import at_most
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.measurements.batches import BatchMeasurement
from pytest_quantgate.results.verdicts import Judgement
from pytest_quantgate.stats import Look


def judge_batches(
    seen: Observation, limits: Limits, _baseline: Baseline | None, _look: Look
) -> list[Judgement]:
    """Judge the batch geometry that is furthest from one batch."""
    measured = seen.find(BatchMeasurement)
    if measured is None or limits.batch_kld_max is None:
        return []
    worst_one = measured.worst
    name = f"mean KLD of {worst_one.name} against one batch"
    return [at_most("batches", name, worst_one.mean_kld_nats, limits.batch_kld_max, " nats")]
