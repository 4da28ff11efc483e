"""One table of the limits and their markers: configuration, tests, docs and reports follow it.

A limit is a row here, and judged in the judge of its metric. Nothing heavy is imported here:
pytest's plugin loads this module in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import Enum
from types import MappingProxyType

MAX_MEAN_KLD_NATS = 1.0
"""A mean divergence at or above this is garbage, whatever the format."""

MIN_KLD_INCREASE_NATS = 1e-4
"""An increase of the mean divergence below this is never a regression, however small it was."""

MAX_BATCH_KLD_NATS = 0.03
"""Mean divergence between batch geometries: kernels of one format differ by up to 0.008 where
they quantize the activations differently (SmolLM2, Q4_K_M, AVX-512); a broken one is far above."""

MAX_DEVICE_KLD_NATS = 0.1
"""Mean divergence between devices, some three times the largest one measured between sound ones:
SmolLM2 on an H100 against a CPU, 0.036 in Q5_K_S, 1.5e-4 in F16 (docs/explanation/benchmarks.md).
Repacked against plain weights on a CPU with AVX2: up to 0.006 (Q4_K_M)."""

MIN_ROUTE_INCREASE = 0.005
"""An increase of the share of changed routes below this is never a regression: rounding in
another kernel moves the tokens whose best experts are nearly tied. Between AVX2 and AVX-512 the
share of both embedded models moved by up to 0.05 points where it is below 5 %, and by 1.7 % of
itself above."""

MAX_ORACLE_KLD_NATS = 1e-4
"""Typical divergence of a reference in F16 from the same weights in float32: rounding gives some
1e-6 (both embedded models, with flash attention and without), a fault far more."""


class Scope(Enum):
    """What a figure is held against."""

    ABSOLUTE = "the limit itself"
    REFERENCE = "the reference's figure"
    BASELINE = "the baseline's figure"
    SAME_HARDWARE = "the baseline's figure, where it is of this hardware"
    ANCHOR = "the first accepted figure"


_OF_A_BASELINE = (Scope.BASELINE, Scope.SAME_HARDWARE, Scope.ANCHOR)


class Value(Enum):
    """What a limit's value may be; ``config.schema`` has the check for each."""

    POSITIVE = "a number above zero"
    SHARE = "a share above 0 and up to 1"
    SHARE_FROM_ZERO = "a share from 0 to 1, or a percentage"
    INCREASE = "an allowed increase"
    DECREASE = "an allowed decrease"
    COUNT = "a whole number from 0"


@dataclass(frozen=True)
class Limit:
    """One limit.

    ``figure`` is what reports call the judged figure, ``unit`` its unit where it has one and the
    limit is no change. ``keyword`` sets it in the metric's marker, in one of several phases with
    ``phase`` besides. ``default`` may depend on a format's nominal bits per weight.
    """

    name: str
    keyword: str | None
    figure: str
    value: Value
    scope: Scope = Scope.ABSOLUTE
    _: KW_ONLY
    unit: str = ""
    phase: str | None = None
    default: float | Callable[[float], float] | None = None

    @property
    def needs_baseline(self) -> bool:
        """Whether it is judged where a baseline is; a floor of a speed holds for one machine."""
        return self.scope in _OF_A_BASELINE or self.unit == "tokens/s"

    def default_at(self, bits_per_weight: float) -> float | None:
        """Return the default for a format of so many nominal bits per weight."""
        return self.default(bits_per_weight) if callable(self.default) else self.default


@dataclass(frozen=True, kw_only=True)
class Marker:
    """The marker that asks for a metric, and the metric's limits.

    ``borrows`` are keywords that name limits of other metrics.
    """

    name: str
    metric: str
    help: str
    limits: tuple[Limit, ...] = ()
    borrows: Mapping[str, str] = field(default_factory=dict)

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that the keyword ``phase`` chooses from; none where there is one figure."""
        return tuple(dict.fromkeys(limit.phase for limit in self.limits if limit.phase))

    @property
    def keywords(self) -> tuple[str, ...]:
        """The keywords that set a limit."""
        own = (limit.keyword for limit in self.limits if limit.keyword)
        return tuple(dict.fromkeys([*own, *self.borrows]))

    @property
    def all_keywords(self) -> tuple[str, ...]:
        """All keywords."""
        return ("phase", *self.keywords) if self.phases else self.keywords

    @property
    def signature(self) -> str:
        """The keywords, as ``pytest --markers`` shows them."""
        return f"({', '.join(f'{keyword}=None' for keyword in self.all_keywords)})"

    def limit_of(self, keyword: str, phase: str | None = None) -> str:
        """Return the name of the limit that a keyword sets."""
        if keyword in self.borrows:
            return self.borrows[keyword]
        return next(x.name for x in self.limits if (x.keyword, x.phase) == (keyword, phase))


def _ppl_increase(bits: float) -> float:
    return 0.0025 if bits >= 4 else 0.005 if bits >= 3 else 0.01


def _four_times(bits: float) -> float:
    return 4 * _ppl_increase(bits)


_ABSOLUTE, _REFERENCE, _BASELINE, _SAME_HARDWARE, _ANCHOR = Scope
_POSITIVE, _SHARE, _SHARE_FROM_ZERO, _INCREASE, _DECREASE, _COUNT = Value


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


_MARKERS = (
    Marker(
        name="quant_ppl",
        metric="perplexity",
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
        ),
    ),
    Marker(
        name="quant_kld",
        metric="divergence",
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
            Limit("same_top_min", "min_same_top", "same top", _SHARE),
            Limit(
                "kld_vs_baseline", "max_vs_baseline", "mean KLD", _INCREASE, _BASELINE, default=0.03
            ),
        ),
    ),
    Marker(
        name="quant_batches",
        metric="batches",
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
    Marker(
        name="quant_noise",
        metric="noise",
        help="settings that should not matter; limits below their noise are warned about",
        borrows={
            "max_mean_kld": "kld_mean_max",
            "max_kld_vs_baseline": "kld_vs_baseline",
            "max_ppl_vs_baseline": "ppl_vs_baseline",
        },
    ),
    Marker(
        name="quant_devices",
        metric="devices",
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
    Marker(
        name="quant_oracle",
        metric="oracle",
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
    Marker(
        name="quant_imatrix",
        metric="imatrix",
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
    Marker(
        name="quant_size",
        metric="size",
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
            Limit(
                "fallback_max", "max_fallback_fraction", "share of fallback types", _SHARE_FROM_ZERO
            ),
        ),
    ),
    Marker(
        name="quant_routing",
        metric="routing",
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
    Marker(
        name="quant_speed",
        metric="speed",
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
    Marker(
        name="quant_memory",
        metric="memory",
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

MARKERS: Mapping[str, Marker] = MappingProxyType({marker.name: marker for marker in _MARKERS})
"""The markers by name."""

LIMITS: Mapping[str, Limit] = MappingProxyType(
    {limit.name: limit for marker in _MARKERS for limit in marker.limits}
)
"""All limits by name, in the order in which reports list them."""

METRIC_OF: Mapping[str, str] = MappingProxyType(
    {limit.name: marker.metric for marker in _MARKERS for limit in marker.limits}
)
"""The metric that judges each limit."""
