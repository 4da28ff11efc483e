"""The gate's statistics: paired, clustered estimates, and decisions at looks declared beforehand.

Pure functions on numpy arrays. Every estimate is in the metric's own unit: nats per token for
perplexity and KL divergence, a fraction for same-top, a natural logarithm for ratios of speed.
Larger is worse throughout; negate a metric where more is better.

estimates.py    means and paired differences, their clustered errors; ratios of speed; percentiles
decisions.py    intervals, bounds, INSIDE or OUTSIDE a limit
looks.py        when a cell may be decided, and the error that each look may spend
runtime_changes.py  equal weights computed otherwise: divergence and perplexity together
pooled.py       one change in many cells
order.py        the seeded, stratified order of chunks
speed.py        interleaved processes: how many, in which order, and what they say
"""

from pytest_quantgate.stats.decisions import (
    Decision,
    Outcome,
    Reason,
    chunks_to_decide,
    decide,
    interval,
    lower_bound,
    ppl_change,
    ppl_limit_nats,
    ppl_ratio_interval,
    t_quantile,
    upper_bound,
)
from pytest_quantgate.stats.estimates import (
    BLOCK_CHUNKS,
    MeanEstimate,
    PairedEstimate,
    cluster_labels,
    compare_paired,
    estimate_mean,
    mean_and_standard_error,
    paired_log_ratio,
    percentile,
)
from pytest_quantgate.stats.looks import (
    ALPHA_PASS,
    ALPHA_REGRESSED,
    FIRST_LOOK,
    MIN_CLUSTERS,
    Look,
    looks_in_text_order,
    plan_looks,
    spending,
)
from pytest_quantgate.stats.order import chunk_order
from pytest_quantgate.stats.pooled import CellShift, pooled_shift
from pytest_quantgate.stats.runtime_changes import (
    PPL_ALLOWANCE,
    RuntimeDecision,
    decide_runtime_change,
    kld_limit_nats,
)
from pytest_quantgate.stats.speed import (
    MIN_PROCESSES,
    SessionMean,
    SessionScatter,
    decide_slowdown,
    interleaved,
    is_narrow,
    process_looks,
    relative_width,
    session_scatter,
    slowdown,
    slowdown_unpaired,
    slowness,
)

__all__ = [
    "ALPHA_PASS",
    "ALPHA_REGRESSED",
    "BLOCK_CHUNKS",
    "FIRST_LOOK",
    "MIN_CLUSTERS",
    "MIN_PROCESSES",
    "PPL_ALLOWANCE",
    "CellShift",
    "Decision",
    "Look",
    "MeanEstimate",
    "Outcome",
    "PairedEstimate",
    "Reason",
    "RuntimeDecision",
    "SessionMean",
    "SessionScatter",
    "chunk_order",
    "chunks_to_decide",
    "cluster_labels",
    "compare_paired",
    "decide",
    "decide_runtime_change",
    "decide_slowdown",
    "estimate_mean",
    "interleaved",
    "interval",
    "is_narrow",
    "kld_limit_nats",
    "looks_in_text_order",
    "lower_bound",
    "mean_and_standard_error",
    "paired_log_ratio",
    "percentile",
    "plan_looks",
    "pooled_shift",
    "ppl_change",
    "ppl_limit_nats",
    "ppl_ratio_interval",
    "process_looks",
    "relative_width",
    "session_scatter",
    "slowdown",
    "slowdown_unpaired",
    "slowness",
    "spending",
    "t_quantile",
    "upper_bound",
]
