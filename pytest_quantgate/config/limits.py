"""The limits that hold for a cell: defaults, then the configuration's, then a marker's."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_quantgate.config.schema import Limits
from pytest_quantgate.config.settings import ALL_FORMATS
from pytest_quantgate.gguf.formats import Format

MAX_MEAN_KLD_NATS = 1.0
"""A mean divergence at or above this is garbage, whatever the format."""

MIN_KLD_INCREASE_NATS = 1e-4
"""An increase of the mean divergence below this is never a regression, however small it was."""


MAX_BATCH_KLD_NATS = 0.03
"""Mean divergence between batch geometries: kernels of one format differ by up to 0.008 where
they quantize the activations differently (SmolLM2, Q4_K_M, AVX-512); a broken one is far above."""

MAX_DEVICE_KLD_NATS = 0.1
"""Mean divergence between devices, some three times the largest one measured between sound ones:
SmolLM2 on an H100 against a CPU, 0.036 in Q5_K_S, 1.5e-4 in F16 (docs/benchmarks.md). Repacked
against plain weights on a CPU with AVX2: up to 0.006 (Q4_K_M)."""

MIN_ROUTE_INCREASE = 0.005
"""An increase of the share of changed routes below this is never a regression: rounding in
another kernel moves the tokens whose best experts are nearly tied. Between AVX2 and AVX-512 the
share of both embedded models moved by up to 0.05 points where it is below 5 %, and by 1.7 % of
itself above."""


MAX_ORACLE_KLD_NATS = 1e-4
"""Typical divergence of a reference in F16 from the same weights in float32: rounding gives some
1e-6 (both embedded models, with flash attention and without), a fault far more."""


def default_limits(wanted: Format) -> Limits:
    """Return the limits that hold where nothing else is configured.

    Perplexity against the baseline: +0.25 % for formats of 4 bits per weight and more, +0.5 %
    for 3 to 4, +1 % below 3. The sum of all accepted changes may be four times as large; that of
    a speed, whose single step may be large already, twice.
    """
    bits = wanted.nominal_bits_per_weight
    ppl = 0.0025 if bits >= 4 else 0.005 if bits >= 3 else 0.01
    return Limits(
        ppl_vs_baseline=ppl,
        ppl_vs_anchor=4 * ppl,
        kld_mean_max=MAX_MEAN_KLD_NATS,
        kld_vs_baseline=0.03,
        batch_kld_max=MAX_BATCH_KLD_NATS,
        device_kld_max=MAX_DEVICE_KLD_NATS,
        oracle_kld_max=MAX_ORACLE_KLD_NATS,
        routing_vs_baseline=0.1,
        size_vs_baseline=0.005,
        imatrix_min_tokens_per_expert=1,
        speed_vs_same_hardware=-0.1,
        speed_vs_anchor=-0.2,
        resident_vs_same_hardware=0.05,
    )


def profile_limits(configured: Mapping[str, Limits], wanted: Format) -> Limits:
    """Return a format's limits: its own over those of all formats over the defaults."""
    layers = [configured[name] for name in (ALL_FORMATS, wanted.name) if name in configured]
    return merge_limits(default_limits(wanted), *layers)


def are_of_a_marker(limits: Limits) -> bool:
    """Tell a marker's own limits from the profile's, which have the defaults of all metrics.

    What the profile asks of every cell is left out where it cannot be measured; what a marker
    asks by name is not.
    """
    return limits.ppl_vs_baseline is None or limits.size_vs_baseline is None


def merge_limits(*layers: Limits) -> Limits:
    """Return the limits of the last layer that sets each."""
    merged: dict[str, object] = {}
    for layer in layers:
        merged |= layer.model_dump(exclude_none=True)
    return Limits.model_validate(merged)
