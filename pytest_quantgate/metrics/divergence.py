"""Divergence from the reference: KL divergence, Δp and same-top, as llama-perplexity prints them.

Source of the definitions: ``kl_divergence`` in llama.cpp's ``tools/perplexity/perplexity.cpp``.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from pytest_quantgate import stats
from pytest_quantgate.engines.messages import DivergenceSummary
from pytest_quantgate.results.chunk_table import ChunkTable
from pytest_quantgate.results.measurements.divergence import DivergenceMeasurement, Part
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement, common_chunks

KLD_PERCENTILES = (99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0, 0.1)
DELTA_P_PERCENTILES = (99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1)
CONFIDENCE_EDGES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)

Float64Array = npt.NDArray[np.float64]


def same_top_tokens(
    seen: PerplexityMeasurement, reference: PerplexityMeasurement
) -> tuple[int, ...] | None:
    """Count the tokens with the same top token in each common chunk, in the order of ``seen``.

    None where neither the tokens nor the engine's own counts are there.
    """
    mine, theirs = common_chunks(seen, reference)
    if seen.top_tokens is not None and reference.top_tokens is not None:
        same = seen.top_tokens[mine] == reference.top_tokens[theirs]
        return tuple(int(count) for count in same.sum(axis=1))
    return seen.chunks.take(mine).same_tops


def measure_divergence(
    seen: PerplexityMeasurement, reference: PerplexityMeasurement
) -> DivergenceMeasurement | None:
    """Summarize the divergence on the chunks that both have; None where none was measured."""
    mine, theirs = common_chunks(seen, reference)
    chunks = seen.chunks.take(mine)
    sums, same = chunks.kld_sums, same_top_tokens(seen, reference)
    if not mine or sums is None or same is None:
        return None
    mean, top = chunks.mean(sums), chunks.mean(same)
    summary = _summary(seen, reference, mine, theirs)
    return DivergenceMeasurement(
        tokens=mean.tokens,
        mean_kld_nats=mean.mean,
        mean_kld_error_nats=mean.standard_error,
        max_kld_nats=summary.max_kld_nats if summary else None,
        min_kld_nats=summary.min_kld_nats if summary else None,
        kld_percentiles_nats=dict(summary.kld_percentiles_nats) if summary else {},
        mean_delta_p=summary.mean_delta_p if summary else None,
        rms_delta_p=summary.rms_delta_p if summary else None,
        delta_p_percentiles=dict(summary.delta_p_percentiles) if summary else {},
        same_top=top.mean,
        same_top_error=top.standard_error,
        by_confidence=_by_confidence(seen, reference, mine, theirs),
        by_domain=_by_domain(chunks.replace(same_top=same)),
    )


def _summary(
    seen: PerplexityMeasurement,
    reference: PerplexityMeasurement,
    mine: list[int],
    theirs: list[int],
) -> DivergenceSummary | None:
    """Summarize the values of single tokens, or return what the engine told in their place."""
    if seen.kld_nats is None or seen.nll_nats is None or reference.nll_nats is None:
        return seen.summary
    kld = seen.kld_nats[mine].astype(np.float64)
    nll, base_nll = seen.nll_nats[mine], reference.nll_nats[theirs]
    delta = np.exp(-nll.astype(np.float64)) - np.exp(-base_nll.astype(np.float64))
    return DivergenceSummary(
        max_kld_nats=float(kld.max()),
        min_kld_nats=float(kld.min()),
        kld_percentiles_nats=_percentiles(kld, KLD_PERCENTILES),
        mean_delta_p=float(delta.mean()),
        rms_delta_p=float(np.sqrt(np.mean(delta**2))),
        delta_p_percentiles=_percentiles(delta, DELTA_P_PERCENTILES),
    )


def _percentiles(values: Float64Array, wanted: tuple[float, ...]) -> tuple[tuple[str, float], ...]:
    flat = values.ravel()
    return tuple((f"{percent:g}", stats.percentile(flat, percent / 100)) for percent in wanted)


def _by_confidence(
    seen: PerplexityMeasurement,
    reference: PerplexityMeasurement,
    mine: list[int],
    theirs: list[int],
) -> tuple[Part, ...]:
    if seen.kld_nats is None or seen.top_tokens is None:
        return ()
    if reference.top_probabilities is None or reference.top_tokens is None:
        return ()
    confidence = reference.top_probabilities[theirs]
    kld = seen.kld_nats[mine].astype(np.float64)
    same = seen.top_tokens[mine] == reference.top_tokens[theirs]
    parts = []
    for low, high in itertools.pairwise(CONFIDENCE_EDGES):
        inside = (confidence >= low) & ((confidence < high) | (high == 1.0))
        if inside.any():
            parts.append(
                Part(
                    name=f"{low:g}-{high:g}",
                    tokens=int(inside.sum()),
                    mean_kld_nats=float(kld[inside].mean()),
                    same_top=float(same[inside].mean()),
                )
            )
    return tuple(parts)


def _by_domain(chunks: ChunkTable) -> tuple[Part, ...]:
    return tuple(
        Part(
            name=name,
            tokens=rows.n_tokens,
            mean_kld_nats=sum(rows.kld_sums or ()) / rows.n_tokens,
            same_top=sum(rows.same_tops or ()) / rows.n_tokens,
        )
        for name, rows in chunks.by_domain().items()
    )
