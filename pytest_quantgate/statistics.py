"""The gate's statistics: paired, clustered estimates, and decisions at looks declared beforehand.

Pure functions on numpy arrays. Every estimate is in the metric's own unit: nats per token for
perplexity and KL divergence, a fraction for same-top, a natural logarithm for ratios of speed.
Larger is worse throughout; negate a metric where more is better.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]

BLOCK_CHUNKS = 4
"""Neighbouring chunks that make one cluster where the text declares no documents."""

MAX_CHUNKS = 1_000_000
"""An estimate that needs more than this is at the limit for every purpose."""

MIN_CLUSTERS = 8
"""Below this a variance between clusters says too little for a verdict."""


@dataclass(frozen=True, kw_only=True)
class MeanEstimate:
    """A mean over scored tokens with its clustered standard error.

    Attributes:
        mean: Σ of the chunks' sums / tokens, in the metric's unit per token.
        standard_error: the larger of the error clustered by document (or block) and by chunk,
            in the metric's unit; infinite for fewer than two clusters.
        skewness: of the cluster sums' residuals, γ = G₁ of Joanes and Gill (1998); 0 where they
            don't vary, or are symmetric by design.
        skewness_error: √(6/G), the standard error of γ; 0 where symmetric by design.
        clusters: documents, or blocks where the text declares none: G.
        degrees_of_freedom: G − 1, also where the error by chunk is the larger one, so that few
            documents never count as many.
        tokens: scored tokens, N.
        chunks: chunks they came in.

    """

    mean: float
    standard_error: float
    skewness: float
    skewness_error: float
    clusters: int
    degrees_of_freedom: int
    tokens: int
    chunks: int


@dataclass(frozen=True, kw_only=True)
class PairedEstimate(MeanEstimate):
    """A mean difference b − a on the same tokens; positive when b is worse.

    Attributes:
        chunks_differing: chunks whose sums differ in any bit (a NaN differs from everything).

    """

    chunks_differing: int


class Outcome(Enum):
    """Where a confidence bound lies with respect to a limit."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    UNDECIDED = "undecided"
    NOT_FINITE = "not finite"


class Reason(Enum):
    """What a decision rests on."""

    BOUND = "the confidence bound"
    IDENTICAL = "bit-identical values"
    BETWEEN = "the limit lies between the confidence bounds"
    FEW_CLUSTERS = "too few clusters"
    FEW_DIFFER = "fewer than half of the chunks differ"
    NOT_FINITE = "a value is not finite"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """An outcome and the evidence for it.

    Attributes:
        outcome: see `Outcome`.
        reason: see `Reason`.
        lower_bound: one-sided at `alpha_regressed`, in the estimate's unit.
        upper_bound: one-sided at `alpha_pass`, in the estimate's unit.
        limit: what they were compared with.

    """

    outcome: Outcome
    reason: Reason
    lower_bound: float
    upper_bound: float
    limit: float


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


def _skewness(residuals: FloatArray) -> float:
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
        variance = max(
            _clustered_variance(cluster_sums, cluster_tokens, mean),
            _clustered_variance(values, counts, mean),
        )
        skewness = _skewness(cluster_sums - cluster_tokens * mean)
    return MeanEstimate(
        mean=mean,
        standard_error=math.sqrt(variance),
        skewness=skewness,
        skewness_error=math.sqrt(6 / cluster_sums.size),
        clusters=cluster_sums.size,
        degrees_of_freedom=cluster_sums.size - 1,
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


def t_quantile(degrees_of_freedom: float, alpha: float) -> float:
    """Return the t that is exceeded with probability `alpha`."""
    if not 0 < alpha < 1:
        msg = f"alpha {alpha!r}; give a probability between 0 and 1"
        raise ValueError(msg)
    return -float(stdtrit(degrees_of_freedom, alpha)) if degrees_of_freedom > 0 else math.inf


def interval(estimate: MeanEstimate, alpha: float = 0.05) -> tuple[float, float]:
    """Return the two-sided interval of confidence 1 − alpha, in the estimate's unit."""
    half = _times(t_quantile(estimate.degrees_of_freedom, alpha / 2), estimate.standard_error)
    return estimate.mean - half, estimate.mean + half


def _guarded_t(alpha: float, clusters: float, adverse_skewness: float) -> float:
    """Return the t of a one-sided bound, widened where skewed clusters would break it.

    Student's t of a mean of few skewed values exceeds its nominal quantile many times too often
    on one side: 5 times at α = 0.001 for a skewness of 1, 18 times for 2 (G of 16 to 64). Hall's
    transformation (1992, JRSS B 54, 221-228) undoes the skewness γ:
    t = 3√G/γ · ((1 + γ(t_α − γ/(6√G))/√G)^⅓ − 1). It is used with γ's estimate moved by its own
    standard error in the adverse direction, because few clusters seldom show their tail, and only
    where it widens the bound: the result is never below t with G − 1 degrees of freedom.
    """
    plain = t_quantile(clusters - 1, alpha)
    if abs(adverse_skewness) < 1e-9 or math.isinf(plain):
        return plain
    root, gamma = math.sqrt(clusters), adverse_skewness
    inner = 1 + gamma * (plain - gamma / (6 * root)) / root
    return max(plain, 3 * root / gamma * (float(np.cbrt(inner)) - 1))


def lower_bound(estimate: MeanEstimate, alpha: float) -> float:
    """Return what the mean exceeds with one-sided confidence 1 − alpha, guarded against skew."""
    adverse = estimate.skewness - estimate.skewness_error
    quantile = _guarded_t(alpha, estimate.clusters, adverse)
    return estimate.mean - _times(quantile, estimate.standard_error)


def upper_bound(estimate: MeanEstimate, alpha: float) -> float:
    """Return what the mean stays below with one-sided confidence 1 − alpha, guarded likewise."""
    adverse = -estimate.skewness - estimate.skewness_error
    quantile = _guarded_t(alpha, estimate.clusters, adverse)
    return estimate.mean + _times(quantile, estimate.standard_error)


def _times(quantile: float, standard_error: float) -> float:
    return math.inf if math.inf in (quantile, standard_error) else quantile * standard_error


def ppl_change(nats: float) -> float:
    """Turn ln(PPL_b / PPL_a) in nats per token into a relative change of perplexity."""
    return math.expm1(nats) if nats < 709 else math.inf


def ppl_limit_nats(relative_change: float) -> float:
    """Turn a relative change of perplexity (+0.25 % is 0.0025) into nats per token."""
    return math.log1p(relative_change)


def ppl_ratio_interval(estimate: MeanEstimate, alpha: float = 0.05) -> tuple[float, float]:
    """Return the interval of PPL_b / PPL_a − 1 of confidence 1 − alpha."""
    low_nats, high_nats = interval(estimate, alpha)
    return ppl_change(low_nats), ppl_change(high_nats)


def decide(
    estimate: MeanEstimate,
    limit: float,
    *,
    alpha_pass: float,
    alpha_regressed: float,
    identical: bool,
    last_look: bool,
    min_clusters: int = MIN_CLUSTERS,
) -> Decision:
    """Compare an estimate's one-sided confidence bounds with a limit.

    Args:
        estimate: of all the chunks up to this look; one that isn't paired counts as differing
            in every chunk.
        limit: the largest difference allowed, in the estimate's unit.
        alpha_pass: this look's share of the error of INSIDE (see `spending`).
        alpha_regressed: this look's share of the error of OUTSIDE.
        identical: every per-token value is bit-equal.
        last_look: the budget is used up. Before that neither bit-equal values nor a difference
            in fewer than half of the chunks may be INSIDE: the rest of the text may differ.
        min_clusters: below this only bit-equal values are decided.

    Returns:
        INSIDE only if the upper bound is at or below the limit, OUTSIDE only if the lower bound
        is above it, NOT_FINITE for a mean or error that is no number.

    Raises:
        ValueError: a limit that is not finite, or `identical` with chunks that differ.

    """
    if not math.isfinite(limit):
        msg = f"limit {limit!r}; give a finite number"
        raise ValueError(msg)
    lower = lower_bound(estimate, alpha_regressed)
    upper = upper_bound(estimate, alpha_pass)

    def decision(outcome: Outcome, reason: Reason) -> Decision:
        return Decision(
            outcome=outcome, reason=reason, lower_bound=lower, upper_bound=upper, limit=limit
        )

    if not math.isfinite(estimate.mean) or math.isnan(estimate.standard_error):
        return decision(Outcome.NOT_FINITE, Reason.NOT_FINITE)
    differing = (
        estimate.chunks_differing if isinstance(estimate, PairedEstimate) else estimate.chunks
    )
    if identical:
        if differing:
            msg = f"identical values, yet {differing} chunks differ"
            raise ValueError(msg)
        if not last_look:
            return decision(Outcome.UNDECIDED, Reason.FEW_DIFFER)
        return decision(Outcome.INSIDE if limit >= 0 else Outcome.OUTSIDE, Reason.IDENTICAL)
    if estimate.clusters < max(min_clusters, 2):
        return decision(Outcome.UNDECIDED, Reason.FEW_CLUSTERS)
    if not math.isfinite(estimate.standard_error):
        return decision(Outcome.NOT_FINITE, Reason.NOT_FINITE)
    if lower > limit:
        return decision(Outcome.OUTSIDE, Reason.BOUND)
    if upper <= limit:
        if not last_look and 2 * differing < estimate.chunks:
            return decision(Outcome.UNDECIDED, Reason.FEW_DIFFER)
        return decision(Outcome.INSIDE, Reason.BOUND)
    return decision(Outcome.UNDECIDED, Reason.BETWEEN)


def spending(looks: Sequence[int], alpha: float, rho: float = 1.0) -> tuple[float, ...]:
    """Share a one-sided error among looks declared beforehand.

    Look k of n_k chunks may use α·(n_k/n_K)^ρ − α·(n_{k−1}/n_K)^ρ (the power family of Kim and
    DeMets, 1987). The shares add up to α, so the overall error is at most α by the union bound,
    whatever the correlation between looks, which a recursion over the multivariate normal would
    take to be known. It isn't here: errors are estimated, G is small, clusters grow between looks.
    What the bound costs is small this far out in the tail.

    Raises:
        ValueError: looks that don't increase, or an alpha outside (0, 1).

    """
    if not looks or looks[0] < 1 or any(b <= a for a, b in pairwise(looks)):
        msg = f"looks {list(looks)}; give increasing numbers of chunks, such as 16, 32, 64"
        raise ValueError(msg)
    if not 0 < alpha < 1:
        msg = f"alpha {alpha!r}; give a probability between 0 and 1"
        raise ValueError(msg)
    spent = [alpha * (look / looks[-1]) ** rho for look in looks]
    return tuple(b - a for a, b in pairwise([0.0, *spent]))


def chunks_to_decide(
    estimate: MeanEstimate,
    limit: float,
    *,
    alpha_pass: float,
    alpha_regressed: float,
    min_clusters: int = MIN_CLUSTERS,
    power: float = 0.8,
) -> int | None:
    """Say how many more chunks would decide with probability `power`, if the mean stays.

    The smallest n' ≤ `MAX_CHUNKS` where (t_α + t_{1−power}) · SE · √(n/n') ≤ |mean − limit|, with
    clusters growing like chunks. None where there is none: the mean is at the limit, or something
    is not finite.
    """
    gap = abs(estimate.mean - limit)
    if not (math.isfinite(gap) and math.isfinite(estimate.standard_error)) or gap == 0:
        return None
    passing = estimate.mean <= limit
    alpha = alpha_pass if passing else alpha_regressed

    def decides(chunks: int) -> bool:
        growth = chunks / estimate.chunks
        clusters = estimate.clusters * growth
        adverse = -estimate.skewness if passing else estimate.skewness
        quantile = _guarded_t(alpha, clusters, adverse - estimate.skewness_error / growth**0.5)
        quantile += t_quantile(clusters - 1, 1 - power)
        return clusters >= min_clusters and quantile * estimate.standard_error <= gap * growth**0.5

    if not decides(MAX_CHUNKS):
        return None
    chunks = range(estimate.chunks + 1, MAX_CHUNKS)
    return bisect_left(chunks, True, key=decides) + 1


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


def _rank(seed: int, kind: str, name: object) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{kind}\0{name}".encode()).digest())


def chunk_order(
    domains: Sequence[str | None], documents: Sequence[int | None], seed: int
) -> list[int]:
    """Order chunks so that every prefix is a balanced sample of the text.

    Chunk i of a domain's m stands at i/m, so after any n chunks a domain of weight w among k has
    between n·w − k·w and n·w + 1 of them, and the first k hold one of each. Within a domain the
    document (or block of neighbours, where none is declared) visited least comes next. Ties go by
    SHA-256 of the seed and the name, so the order is the same everywhere and always.

    Args:
        domains: each chunk's domain, or None.
        documents: each chunk's document, or None.
        seed: any integer; stored with the profile.

    Returns:
        A permutation of the chunks' indices in the text.

    """
    chunks = range(len(domains))
    clusters = [int(c) for c in cluster_labels(documents, np.arange(len(documents)))]
    if len(domains) != len(clusters):
        msg = f"{len(domains)} domains for {len(clusters)} documents; give one of each per chunk"
        raise ValueError(msg)
    waiting: dict[str | None, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for chunk in sorted(chunks, key=lambda chunk: _rank(seed, "chunk", chunk)):
        waiting[domains[chunk]][clusters[chunk]].append(chunk)
    turns = [
        (Fraction(turn, size), _rank(seed, f"domain {turn}", domain), domain)
        for domain, by_cluster in waiting.items()
        for size in [sum(map(len, by_cluster.values()))]
        for turn in range(size)
    ]
    turns.sort(key=lambda turn: turn[:2])
    cluster_rank = {cluster: _rank(seed, "cluster", cluster) for cluster in set(clusters)}
    visits = dict.fromkeys(cluster_rank, 0)
    heaps = {
        domain: sorted((0, cluster_rank[cluster], cluster) for cluster in by_cluster)
        for domain, by_cluster in waiting.items()
    }
    order: list[int] = []
    for _, _, domain in turns:
        heap = heaps[domain]
        while heap[0][0] != visits[heap[0][2]]:  # another domain visited this document since
            _, rank, cluster = heap[0]
            heapq.heapreplace(heap, (visits[cluster], rank, cluster))
        _, rank, cluster = heapq.heappop(heap)
        order.append(waiting[domain][cluster].pop())
        visits[cluster] += 1
        if waiting[domain][cluster]:
            heapq.heappush(heap, (visits[cluster], rank, cluster))
    return order
