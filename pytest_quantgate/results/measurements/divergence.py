"""Divergence from the reference: KL divergence, Δp and same top token."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Part:
    """The divergence on some of the tokens, as those of one domain."""

    name: str
    tokens: int
    mean_kld_nats: float
    same_top: float


@dataclass(frozen=True, kw_only=True)
class DivergenceMeasurement:
    """How far a model's next-token distributions are from its reference's.

    ``mean_kld_error_nats`` is the clustered standard error; percentiles are of the per-token
    values, by name such as ``"99.9"``; Δp is the change of the probability of the text's own
    next token, a fraction; ``same_top`` the share of tokens with the same most probable token.
    ``by_confidence`` splits by the probability of the reference's top token.

    From an engine that tells no values of single tokens there is no ``by_confidence``, and the
    extremes, percentiles and Δp are those of its own summary, of the most chunks that were
    measured: None and empty where it gave none.
    """

    tokens: int
    mean_kld_nats: float
    mean_kld_error_nats: float
    max_kld_nats: float | None
    min_kld_nats: float | None
    kld_percentiles_nats: dict[str, float]
    mean_delta_p: float | None
    rms_delta_p: float | None
    delta_p_percentiles: dict[str, float]
    same_top: float
    same_top_error: float
    by_confidence: tuple[Part, ...]
    by_domain: tuple[Part, ...]
