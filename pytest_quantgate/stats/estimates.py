"""Estimates of means and paired differences, with clustered errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]

BLOCK_CHUNKS = 4
"""Neighbouring chunks that make one cluster where the text declares no documents."""


@dataclass(frozen=True, kw_only=True)
class MeanEstimate:
    """A mean over scored tokens with its clustered standard error.

    Attributes:
        mean: Σ of the chunks' sums / tokens, in the metric's unit per token.
        standard_error: the larger of the error clustered by document (or block) and by chunk,
            in the metric's unit; infinite for fewer than two clusters.
        skewness: of the cluster sums' residuals, γ = G₁ of Joanes and Gill (1998); 0 where they
            don't vary, or are symmetric by design.
        skewness_error: √(6/G*), the standard error of γ; 0 where symmetric by design.
        clusters: documents, or blocks where the text declares none: G.
        effective_clusters: G* = N²/Σ n_g² ≤ G (Kish, 1965), what clusters of unequal size are
            worth; G where they are equal.
        tokens: scored tokens, N.
        chunks: chunks they came in.

    """

    mean: float
    standard_error: float
    skewness: float
    skewness_error: float
    clusters: int
    effective_clusters: float
    tokens: int
    chunks: int

    @property
    def degrees_of_freedom(self) -> float:
        """G* − 1, also where the error by chunk is the larger one: few documents are not many."""
        return self.effective_clusters - 1


@dataclass(frozen=True, kw_only=True)
class PairedEstimate(MeanEstimate):
    """A mean difference b − a on the same tokens; positive when b is worse.

    Attributes:
        chunks_differing: chunks whose sums differ in any bit (a NaN differs from everything).

    """

    chunks_differing: int


def cluster_labels(documents: Sequence[int | None] | None, order: npt.ArrayLike) -> IntArray:
    """Give each chunk the number of its cluster, from 0.

    Args:
        documents: each chunk's document, None where the text declares none.
        order: (chunks,) each chunk's index in the text, which makes the blocks.

    Returns:
        (chunks,) int64 labels, dense: the document's, or the block's of `BLOCK_CHUNKS` neighbours.

    """
    positions = [int(position) for position in np.asarray(order, dtype=np.int64)]
    if documents is None:
        documents = [None] * len(positions)
    if len(documents) != len(positions):
        msg = f"{len(documents)} documents for {len(positions)} chunks; give one label per chunk"
        raise ValueError(msg)
    numbers: dict[tuple[bool, int], int] = {}
    return np.array(
        [
            numbers.setdefault(
                (False, position // BLOCK_CHUNKS) if document is None else (True, int(document)),
                len(numbers),
            )
            for document, position in zip(documents, positions, strict=True)
        ],
        dtype=np.int64,
    )


def _clustered_variance(sums: FloatArray, tokens: FloatArray, mean: float) -> float:
    """G/(G−1) · Σ_g(S_g − n_g·x̄)² / N², of (clusters,) sums and token counts."""
    clusters = sums.size
    if clusters < 2:
        return math.inf
    residuals = sums - tokens * mean
    return float(clusters / (clusters - 1) * (residuals @ residuals) / tokens.sum() ** 2)


def skewness_of(residuals: FloatArray) -> float:
    """G₁ = √(G(G−1))/(G−2) · m₃/m₂^1.5 of (clusters,) residuals; 0 where it is undefined."""
    size = residuals.size
    scale = float(np.abs(residuals).max())
    if size < 3 or not scale > 0 or not math.isfinite(scale):
        return 0.0
    scaled = residuals / scale  # cubes of tiny differences would underflow
    ratio = float(np.mean(scaled**3) / np.mean(scaled**2) ** 1.5)
    return math.sqrt(size * (size - 1)) / (size - 2) * ratio


def estimate_mean(
    sums: npt.ArrayLike,
    tokens: npt.ArrayLike,
    documents: Sequence[int | None] | None = None,
    order: npt.ArrayLike | None = None,
) -> MeanEstimate:
    """Estimate a mean per token with errors clustered by document and by chunk.

    The variance is that of a ratio estimator with clusters as the sampling units (Cochran,
    Sampling Techniques, ch. 6 and 9; the CR1 of Liang and Zeger for an intercept alone): clusters
    of one token each give s²/n.

    Args:
        sums: (chunks,) float64, the metric's sum over each chunk's scored tokens.
        tokens: (chunks,) positive token counts.
        documents: (chunks,) labels, None where the text declares none.
        order: (chunks,) each chunk's index in the text; 0, 1, 2, … if left out.

    Returns:
        The estimate; non-finite sums give a non-finite mean, never an error.

    Raises:
        ValueError: no chunks, shapes that differ, or a chunk without tokens.

    """
    values = np.asarray(sums, dtype=np.float64)
    counts = np.asarray(tokens, dtype=np.float64)
    order = np.arange(values.size) if order is None else np.asarray(order, dtype=np.int64)
    if values.ndim != 1 or not values.size or {counts.shape, order.shape} != {values.shape}:
        msg = (
            f"sums {values.shape}, tokens {counts.shape} and order {order.shape}; "
            "give one value per chunk, and at least one chunk"
        )
        raise ValueError(msg)
    if not (counts > 0).all():
        msg = f"a chunk of {counts.min():g} tokens; every chunk must score at least one"
        raise ValueError(msg)
    labels = cluster_labels(documents, order)
    total_tokens = counts.sum()
    with np.errstate(invalid="ignore", over="ignore"):
        mean = float(values.sum() / total_tokens)
        cluster_sums = np.bincount(labels, weights=values).astype(np.float64)
        cluster_tokens = np.bincount(labels, weights=counts).astype(np.float64)
        effective_clusters = float(total_tokens**2 / (cluster_tokens @ cluster_tokens))
        variance = max(
            _clustered_variance(cluster_sums, cluster_tokens, mean),
            _clustered_variance(values, counts, mean),
        )
        skewness = skewness_of(cluster_sums - cluster_tokens * mean)
    return MeanEstimate(
        mean=mean,
        standard_error=math.sqrt(variance),
        skewness=skewness,
        skewness_error=math.sqrt(6 / effective_clusters),
        clusters=cluster_sums.size,
        effective_clusters=effective_clusters,
        tokens=int(total_tokens),
        chunks=values.size,
    )


def compare_paired(
    sums_a: npt.ArrayLike,
    sums_b: npt.ArrayLike,
    tokens: npt.ArrayLike,
    documents: Sequence[int | None] | None = None,
    order: npt.ArrayLike | None = None,
) -> PairedEstimate:
    """Estimate the mean difference b − a per token on common chunks.

    For perplexity the sums are negative log-likelihoods in nats, and the mean is
    ln(PPL_b / PPL_a); any other metric that is a mean over tokens (KL divergence, top tokens that
    changed) goes the same way. Arguments, errors and formula as in `estimate_mean`.
    """
    a = np.asarray(sums_a, dtype=np.float64)
    b = np.asarray(sums_b, dtype=np.float64)
    if a.shape != b.shape:
        msg = f"sums_a {a.shape} and sums_b {b.shape}; compare the chunks that both have"
        raise ValueError(msg)
    with np.errstate(invalid="ignore", over="ignore"):
        estimate = estimate_mean(b - a, tokens, documents, order)
    return PairedEstimate(**vars(estimate), chunks_differing=int(np.count_nonzero(a != b)))


def paired_log_ratio(a_rates: npt.ArrayLike, b_rates: npt.ArrayLike) -> MeanEstimate:
    """Estimate ln(b/a) from interleaved pairs of processes.

    Args:
        a_rates: (pairs,) one rate per process, such as tokens per second.
        b_rates: (pairs,) of the other side, in the order they ran.

    Returns:
        The mean of ln(b/a), with the pair as the cluster, and symmetric by design: both sides of
        an interleaved pair scatter alike, so plain t with pairs − 1 holds; `ppl_change` of it (and
        `ppl_ratio_interval`) is the relative change. Rates that are zero, negative or not finite
        give a mean of NaN.

    Raises:
        ValueError: shapes that differ, or no pairs.

    """
    a = np.asarray(a_rates, dtype=np.float64)
    b = np.asarray(b_rates, dtype=np.float64)
    if a.shape != b.shape:
        msg = f"a_rates {a.shape} and b_rates {b.shape}; give as many processes a side"
        raise ValueError(msg)
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.where((a > 0) & (b > 0), np.log(b) - np.log(a), np.nan)
    pairs = np.arange(logs.size)
    estimate = estimate_mean(logs, np.ones(logs.size), pairs.tolist(), pairs)
    return replace(estimate, skewness=0.0, skewness_error=0.0)


def percentile(values: npt.ArrayLike, fraction: float) -> float:
    """Interpolate linearly at fraction·(n−1) of the sorted values, as llama-perplexity prints.

    A NaN among the values gives NaN. (llama.cpp computes the position in float32.)
    """
    return float(np.quantile(np.asarray(values, dtype=np.float64), min(max(fraction, 0.0), 1.0)))


def mean_and_standard_error(values: npt.ArrayLike) -> tuple[float, float]:
    """Return the mean and s/√n with errors independent per token, as llama-perplexity prints.

    For a proportion this is √(p(1−p)/(n−1)). The error of one value is infinite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        msg = "no values; a mean needs at least one"
        raise ValueError(msg)
    with np.errstate(invalid="ignore", over="ignore"):
        error = float(array.std(ddof=1)) / math.sqrt(array.size) if array.size > 1 else math.inf
        return float(array.mean()), error
