"""The limits that hold for a cell: defaults, then the configuration's, then a marker's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_quantgate.config.limit import ALL_DOMAINS
from pytest_quantgate.config.metrics import LIMITS
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.config.settings import ALL_FORMATS
from pytest_quantgate.gguf.formats import Format


def default_limits(format_: Format) -> Limits:
    """Return the limits that hold where nothing else is configured.

    Perplexity against the baseline: +0.25 % for formats of 4 bits per weight and more, +0.5 %
    for 3 to 4, +1 % below 3. The sum of all accepted changes may be four times as large; that of
    a speed, whose single step may be large already, twice.
    """
    bits = format_.nominal_bits_per_weight
    return Limits.model_validate({name: item.default_at(bits) for name, item in LIMITS.items()})


def profile_limits(configured: Mapping[str, Limits], format_: Format) -> Limits:
    """Return a format's limits: its own over those of all formats over the defaults."""
    layers = [configured[name] for name in (ALL_FORMATS, format_.name) if name in configured]
    return merge_limits(default_limits(format_), *layers)


def are_of_a_marker(limits: Limits) -> bool:
    """Return whether limits are a marker's own; the profile's have the defaults of all metrics.

    What the profile asks of every cell is left out where it cannot be measured; what a marker
    asks by name is not.
    """
    return limits.ppl_vs_baseline is None or limits.size_vs_baseline is None


def merge_limits(*layers: Limits) -> Limits:
    """Return the limits of the last layer that sets each; a table by domain, of each domain."""
    merged: dict[str, Any] = {}
    for layer in layers:
        own = layer.model_dump(exclude_none=True)
        for name, value in own.items():
            if isinstance(value, Mapping) and name in merged:
                own[name] = {**by_domain(merged[name]), **value}
        merged |= own
    return Limits.model_validate(merged)


def by_domain(limit: float | Mapping[str, float]) -> Mapping[str, float]:
    """Return a limit as a table by domain."""
    return limit if isinstance(limit, Mapping) else {ALL_DOMAINS: limit}
