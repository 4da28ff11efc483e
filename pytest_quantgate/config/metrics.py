"""The metrics: one object each, from which markers, configuration, docs and reports are made.

Nothing heavy is imported here: pytest's plugin loads this module in every run, and what measures
and judges is loaded by name when it is used.
"""

from __future__ import annotations

import sys

from pytest_quantgate.config.limit import (
    MAX_BATCH_KLD_NATS,
    MAX_DEVICE_KLD_NATS,
    MAX_MEAN_KLD_NATS,
    MAX_ORACLE_KLD_NATS,
    Limit,
    Scope,
    Value,
)
from pytest_quantgate.config.metric import Figure, Metric

__all__ = ["LIMITS", "MARKERS", "METRICS", "METRIC_OF", "Figure", "Metric", "register"]


def _ppl_increase(bits: float) -> float:
    return 0.0025 if bits >= 4 else 0.005 if bits >= 3 else 0.01


def _four_times(bits: float) -> float:
    return 4 * _ppl_increase(bits)


_ABSOLUTE, _REFERENCE, _BASELINE, _SAME_HARDWARE, _ANCHOR = Scope
_POSITIVE, _SHARE, _SHARE_FROM_ZERO, _INCREASE, _DECREASE, _COUNT, _BY_DOMAIN = Value


def _of_phase(phase: str) -> tuple[Limit, ...]:
    return (
        Limit(
            f"{phase}_vs_reference",
            "min_vs_reference",
            phase,
            _POSITIVE,
            _REFERENCE,
            phase=phase,
        ),
        Limit(f"{phase}_vs_baseline", "min_vs_baseline", phase, _DECREASE, _BASELINE, phase=phase),
        Limit(
            f"{phase}_tokens_per_s_min",
            "min_tokens_per_s",
            phase,
            _POSITIVE,
            phase=phase,
            unit="tokens/s",
        ),
    )


_METRICS = (
    Metric(
        name="perplexity",
        marker="quant_ppl",
        judge="pytest_quantgate.gate.judges.perplexity:judge_perplexity",
        asked_by="test_cell",
        by_chunk=True,
        in_baseline=True,
        help="limits on the cell's perplexity; without keywords the profile's limits",
        limits=(
            Limit("ppl_max", "max", "PPL", _POSITIVE),
            Limit("ppl_vs_reference", "max_vs_reference", "PPL", _INCREASE, _REFERENCE),
            Limit(
                "ppl_vs_baseline",
                "max_vs_baseline",
                "PPL",
                _INCREASE,
                _BASELINE,
                default=_ppl_increase,
            ),
            Limit("ppl_vs_anchor", "max_vs_anchor", "PPL", _INCREASE, _ANCHOR, default=_four_times),
            Limit(
                "domains",
                "max_domain_vs_baseline",
                "PPL of each domain",
                _BY_DOMAIN,
                _BASELINE,
                default=_four_times,
            ),
        ),
    ),
    Metric(
        name="divergence",
        marker="quant_kld",
        judge="pytest_quantgate.gate.judges.divergence:judge_divergence",
        asked_by="test_cell",
        by_chunk=True,
        in_baseline=True,
        help="limits on the divergence from the reference, in nats a token",
        limits=(
            Limit(
                "kld_mean_max",
                "max_mean",
                "mean KLD",
                _POSITIVE,
                unit="nats",
                default=MAX_MEAN_KLD_NATS,
            ),
            Limit("kld_p99_max", "max_p99", "p99 KLD", _POSITIVE, unit="nats"),
            Limit("kld_p999_max", "max_p999", "p99.9 KLD", _POSITIVE, unit="nats"),
            Limit("same_top_min", "min_same_top", "same top", _SHARE),
            Limit(
                "kld_vs_baseline", "max_vs_baseline", "mean KLD", _INCREASE, _BASELINE, default=0.03
            ),
            Limit("kld_vs_anchor", "max_vs_anchor", "mean KLD", _INCREASE, _ANCHOR, default=0.12),
        ),
    ),
    Metric(
        name="batches",
        marker="quant_batches",
        measure="pytest_quantgate.metrics.batches:measure_batches",
        measurement="pytest_quantgate.results.measurements.batches:BatchMeasurement",
        judge="pytest_quantgate.gate.judges.batches:judge_batches",
        asked_by="test_batch_geometry",
        is_kept=True,
        help="limit on the divergence between batch sizes, in nats a token",
        limits=(
            Limit(
                "batch_kld_max",
                "max_mean_kld",
                "mean KLD",
                _POSITIVE,
                unit="nats",
                default=MAX_BATCH_KLD_NATS,
            ),
        ),
    ),
    Metric(
        name="sweep",
        marker="quant_sweep",
        measure="pytest_quantgate.metrics.sweep:measure_sweep",
        measurement="pytest_quantgate.results.measurements.sweep:SweepMeasurement",
        judge="pytest_quantgate.gate.judges.sweep:judge_sweep",
        asked_by="test_sweep",
        needs_baseline=False,
        is_kept=True,
        help="limit on the divergence between conditions that should not matter, in nats a token",
        limits=(
            Limit(
                "sweep_kld_max",
                "max_mean_kld",
                "mean KLD",
                _POSITIVE,
                unit="nats",
                default=MAX_BATCH_KLD_NATS,
            ),
        ),
    ),
    Metric(
        name="noise",
        marker="quant_noise",
        measure="pytest_quantgate.metrics.noise:measure_noise",
        measurement="pytest_quantgate.results.measurements.noise:NoiseMeasurement",
        judge="pytest_quantgate.gate.judges.noise:judge_noise",
        asked_by="test_settings",
        needs_baseline=False,
        help="settings that should not matter; limits below their noise are warned about",
        borrows={
            "max_mean_kld": "kld_mean_max",
            "max_kld_vs_baseline": "kld_vs_baseline",
            "max_ppl_vs_baseline": "ppl_vs_baseline",
        },
    ),
    Metric(
        name="devices",
        marker="quant_devices",
        measure="pytest_quantgate.metrics.devices:measure_devices",
        measurement="pytest_quantgate.results.measurements.devices:DeviceMeasurement",
        judge="pytest_quantgate.gate.judges.devices:judge_devices",
        asked_by="test_devices",
        is_kept=True,
        help="limit on the divergence from the profile's first device, in nats a token",
        limits=(
            Limit(
                "device_kld_max",
                "max_mean_kld",
                "mean KLD",
                _POSITIVE,
                unit="nats",
                default=MAX_DEVICE_KLD_NATS,
            ),
        ),
    ),
    Metric(
        name="oracle",
        marker="quant_oracle",
        measure="pytest_quantgate.metrics.oracle:measure_oracle",
        measurement="pytest_quantgate.results.measurements.oracle:OracleMeasurement",
        judge="pytest_quantgate.gate.judges.oracle:judge_oracle",
        asked_by="test_cell",
        is_kept=True,
        help="limit on an embedded model's divergence from transformers, in nats a token",
        limits=(
            Limit(
                "oracle_kld_max",
                "max_mean_kld",
                "typical KLD",
                _POSITIVE,
                unit="nats",
                default=MAX_ORACLE_KLD_NATS,
            ),
        ),
    ),
    Metric(
        name="imatrix",
        marker="quant_imatrix",
        measure="pytest_quantgate.metrics.imatrix:measure_imatrix",
        measurement="pytest_quantgate.results.measurements.imatrix:ImatrixMeasurement",
        judge="pytest_quantgate.gate.judges.imatrix:judge_imatrix",
        asked_by="test_cell",
        help="limit on the tokens that an expert saw in the cell's importance matrix",
        limits=(
            Limit(
                "imatrix_min_tokens_per_expert",
                "min_tokens_per_expert",
                "tokens per expert",
                _COUNT,
                default=1,
            ),
        ),
    ),
    Metric(
        name="size",
        marker="quant_size",
        judge="pytest_quantgate.gate.judges.size:judge_size",
        asked_by="test_cell",
        of_shapes=True,
        in_baseline=True,
        help="limits on the cell's file; without keywords the profile's limits",
        limits=(
            Limit(
                "bits_per_weight_max",
                "max_bits_per_weight",
                "bits per weight",
                _POSITIVE,
                unit="bits",
            ),
            Limit("size_max_bytes", "max_bytes", "size", _POSITIVE, unit="bytes"),
            Limit("size_vs_reference", "max_vs_reference", "size", _INCREASE, _REFERENCE),
            Limit(
                "size_vs_baseline", "max_vs_baseline", "size", _INCREASE, _BASELINE, default=0.005
            ),
            Limit("size_vs_anchor", "max_vs_anchor", "size", _INCREASE, _ANCHOR, default=0.02),
            Limit(
                "fallback_max", "max_fallback_fraction", "share of fallback types", _SHARE_FROM_ZERO
            ),
        ),
    ),
    Metric(
        name="routing",
        marker="quant_routing",
        measure="pytest_quantgate.metrics.routing:measure_routing",
        measurement="pytest_quantgate.results.measurements.routing:RoutingMeasurement",
        judge="pytest_quantgate.gate.judges.routing:judge_routing",
        is_compared=True,
        asked_by="test_cell",
        is_kept=True,
        help="limits on where a mixture of experts sends its tokens",
        limits=(
            Limit("same_experts_min", "min_same_experts", "same experts", _SHARE),
            Limit(
                "same_top_expert_min",
                "min_same_top_expert",
                "same top expert",
                _SHARE,
            ),
            Limit("shared_weight_min", "min_shared_weight", "shared weight", _SHARE),
            Limit("expert_load_max", "max_load_share", "expert load", _SHARE),
            Limit(
                "routing_vs_baseline",
                "max_vs_baseline",
                "changed routes",
                _INCREASE,
                _BASELINE,
                default=0.1,
            ),
        ),
    ),
    Metric(
        name="speed",
        marker="quant_speed",
        measure="pytest_quantgate.metrics.speed:measure_speed",
        measurement="pytest_quantgate.results.measurements.speed:SpeedMeasurement",
        judge="pytest_quantgate.gate.judges.speed:judge_speed",
        columns="pytest_quantgate.reports.run_tables:speed_columns",
        properties="pytest_quantgate.results.measurements.speed:speed_figures",
        asked_by="test_speed",
        of_shapes=True,
        help=(
            "limits on the speed of phase 'prefill' or 'decode': a ratio to the reference, a"
            " relative change, a floor; without keywords the profile's limits"
        ),
        limits=(
            *_of_phase("prefill"),
            *_of_phase("decode"),
            Limit("speed_vs_same_hardware", None, "speed", _DECREASE, _SAME_HARDWARE, default=-0.1),
            Limit("speed_vs_anchor", None, "speed", _DECREASE, _ANCHOR, default=-0.2),
        ),
    ),
    Metric(
        name="memory",
        marker="quant_memory",
        measure="pytest_quantgate.metrics.memory:measure_memory",
        measurement="pytest_quantgate.results.measurements.memory:MemoryMeasurement",
        judge="pytest_quantgate.gate.judges.memory:judge_memory",
        is_compared=True,
        columns="pytest_quantgate.reports.run_tables:memory_columns",
        properties="pytest_quantgate.results.measurements.memory:memory_figures",
        asked_by="test_memory",
        of_shapes=True,
        help="limits on the peak memory of a fresh process",
        limits=(
            Limit("resident_max_bytes", "max_resident_bytes", "memory", _POSITIVE, unit="bytes"),
            Limit("resident_vs_baseline", "max_vs_baseline", "memory", _INCREASE, _BASELINE),
            Limit(
                "resident_vs_same_hardware", None, "memory", _INCREASE, _SAME_HARDWARE, default=0.05
            ),
        ),
    ),
)

METRICS: dict[str, Metric] = {}
"""The metrics by name, in the order in which they are judged; `register` adds one."""

MARKERS: dict[str, Metric] = {}
"""The metrics by the marker that asks for them."""

LIMITS: dict[str, Limit] = {}
"""All limits by name, in the order in which reports list them."""

METRIC_OF: dict[str, str] = {}
"""The metric that judges each limit."""


def register(metric: Metric) -> None:
    """Add a metric: its marker, limits and figures are there as those of the built-in ones.

    Do it in a plugin or a ``conftest.py``, before pytest reads the settings.

    Raises:
        ValueError: the name, the marker or a limit is taken, or the settings are read already.

    """
    if "pytest_quantgate.config.schema" in sys.modules:
        raise ValueError(
            f"metric {metric.name!r} comes after the settings were read; register it at the top of"
            " a conftest.py or of a plugin (pytest -p NAME)"
        )
    _add(metric)


def _add(metric: Metric) -> None:
    taken = [limit.name for limit in metric.limits if limit.name in LIMITS]
    taken += [name for name in (metric.name,) if name in METRICS]
    taken += [name for name in (metric.marker,) if name in MARKERS]
    if taken:
        raise ValueError(f"metric {metric.name!r}: {taken[0]!r} is taken; choose another name")
    METRICS[metric.name] = MARKERS[metric.marker] = metric
    LIMITS.update({limit.name: limit for limit in metric.limits})
    METRIC_OF.update({limit.name: metric.name for limit in metric.limits})


for _metric in _METRICS:
    _add(_metric)
