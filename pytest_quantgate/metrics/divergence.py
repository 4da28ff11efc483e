"""Divergence from the reference: KL divergence, Δp and same-top, as llama-perplexity prints them.

Source of the definitions: ``kl_divergence`` in llama.cpp's ``tools/perplexity/perplexity.cpp``.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pytest_quantgate import statistics
from pytest_quantgate.metrics.perplexity import PerplexityMeasurement, common_chunks

KLD_PERCENTILES = (99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0, 0.1)
DELTA_P_PERCENTILES = (99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1)
CONFIDENCE_EDGES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)

Float64Array = npt.NDArray[np.float64]


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
    """

    tokens: int
    mean_kld_nats: float
    mean_kld_error_nats: float
    max_kld_nats: float
    min_kld_nats: float
    kld_percentiles_nats: dict[str, float]
    mean_delta_p: float
    rms_delta_p: float
    delta_p_percentiles: dict[str, float]
    same_top: float
    same_top_error: float
    by_confidence: tuple[Part, ...]
    by_domain: tuple[Part, ...]


def measure_divergence(
    seen: PerplexityMeasurement, reference: PerplexityMeasurement
) -> DivergenceMeasurement | None:
    """Summarize the divergence on the chunks that both have; None where none was measured."""
    mine, theirs = common_chunks(seen, reference)
    if seen.kld_nats is None or not mine:
        return None
    kld = seen.kld_nats[mine].astype(np.float64)
    same = (seen.top_tokens[mine] == reference.top_tokens[theirs]).astype(np.float64)
    nll, base_nll = seen.nll_nats[mine], reference.nll_nats[theirs]
    delta = np.exp(-nll.astype(np.float64)) - np.exp(-base_nll.astype(np.float64))
    chunks = [seen.chunks[i] for i in mine]
    sums = [float(c.kld_sum_nats) if c.kld_sum_nats is not None else math.nan for c in chunks]
    tokens = [c.tokens for c in chunks]
    documents, places = [c.document for c in chunks], [c.index for c in chunks]
    mean = statistics.estimate_mean(sums, tokens, documents, places)
    top = statistics.estimate_mean(same.sum(axis=1), tokens, documents, places)
    confidence = None
    if reference.top_probabilities is not None:
        confidence = reference.top_probabilities[theirs]
    return DivergenceMeasurement(
        tokens=mean.tokens,
        mean_kld_nats=mean.mean,
        mean_kld_error_nats=mean.standard_error,
        max_kld_nats=float(kld.max()),
        min_kld_nats=float(kld.min()),
        kld_percentiles_nats=_percentiles(kld, KLD_PERCENTILES),
        mean_delta_p=float(delta.mean()),
        rms_delta_p=float(np.sqrt(np.mean(delta**2))),
        delta_p_percentiles=_percentiles(delta, DELTA_P_PERCENTILES),
        same_top=top.mean,
        same_top_error=top.standard_error,
        by_confidence=_by_confidence(kld, same, confidence),
        by_domain=_by_domain(kld, same, [c.domain for c in chunks]),
    )


def _percentiles(values: Float64Array, wanted: tuple[float, ...]) -> dict[str, float]:
    flat = values.ravel()
    return {f"{percent:g}": statistics.percentile(flat, percent / 100) for percent in wanted}


def _part(name: str, kld: Float64Array, same: Float64Array) -> Part:
    return Part(
        name=name,
        tokens=int(kld.size),
        mean_kld_nats=float(kld.mean()),
        same_top=float(same.mean()),
    )


def _by_confidence(
    kld: Float64Array, same: Float64Array, confidence: npt.NDArray[np.float32] | None
) -> tuple[Part, ...]:
    if confidence is None:
        return ()
    parts = []
    for low, high in itertools.pairwise(CONFIDENCE_EDGES):
        inside = (confidence >= low) & ((confidence < high) | (high == 1.0))
        if inside.any():
            parts.append(_part(f"{low:g}-{high:g}", kld[inside], same[inside]))
    return tuple(parts)


def _by_domain(
    kld: Float64Array, same: Float64Array, domains: list[str | None]
) -> tuple[Part, ...]:
    parts = []
    for name in dict.fromkeys(domain for domain in domains if domain is not None):
        rows = [i for i, domain in enumerate(domains) if domain == name]
        parts.append(_part(name, kld[rows], same[rows]))
    return tuple(parts)
