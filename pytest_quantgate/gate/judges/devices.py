"""Devices: the batch size that is furthest from the profile's first device decides."""

from __future__ import annotations

from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.bounds import at_most
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.measurements.devices import DeviceMeasurement
from pytest_quantgate.results.verdicts import Judgement
from pytest_quantgate.stats import Look


def judge_devices(
    seen: Observation, limits: Limits, _baseline: Baseline | None, _look: Look
) -> list[Judgement]:
    """Judge the difference from the profile's first device, which itself has none."""
    measured = seen.find(DeviceMeasurement)
    if measured is None or limits.device_kld_max is None:
        return []
    worst = measured.worst
    name = f"mean KLD at n_ubatch {worst.n_ubatch} against device {measured.against}"
    return [at_most("devices", name, worst.mean_kld_nats, limits.device_kld_max, " nats")]
