"""One limit: what its value may be, what it is held against, and the defaults' figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from enum import Enum

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
    INCREASE_BY_DOMAIN = "an allowed increase, or a table of domain → allowed increase"


ALL_DOMAINS = "*"
"""The key of a table by domain for the domains that it does not name."""


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
