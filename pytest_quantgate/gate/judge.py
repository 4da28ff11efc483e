"""Measurement, limit and baseline in, verdict and evidence out; no input or output here."""

from __future__ import annotations

from collections.abc import Callable

from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.cause import find_cause
from pytest_quantgate.gate.judges.batches import judge_batches
from pytest_quantgate.gate.judges.bounds import not_comparable
from pytest_quantgate.gate.judges.devices import judge_devices
from pytest_quantgate.gate.judges.divergence import judge_divergence
from pytest_quantgate.gate.judges.imatrix import judge_imatrix
from pytest_quantgate.gate.judges.memory import judge_memory
from pytest_quantgate.gate.judges.noise import judge_noise
from pytest_quantgate.gate.judges.oracle import judge_oracle
from pytest_quantgate.gate.judges.perplexity import judge_perplexity
from pytest_quantgate.gate.judges.routing import judge_routing
from pytest_quantgate.gate.judges.size import judge_size
from pytest_quantgate.gate.judges.speed import judge_speed
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.verdicts import (
    Cause,
    CauseKind,
    Judgement,
    Verdict,
    VerdictKind,
    worst,
)
from pytest_quantgate.stats import Look

BY_CHUNK = frozenset({"perplexity", "divergence"})
"""The metrics that need the text's chunks; the others are measured once, or read off the file."""

OF_THE_WHOLE = frozenset({"perplexity", "divergence", "size"})
"""The metrics that make up a whole baseline of a cell; others add parts of their own."""

OF_SHAPES = frozenset({"size", "speed", "memory"})
"""The metrics that do not depend on the weights' values: all that a shape is asked about."""

WITHOUT_BASELINE = frozenset({"noise"})
"""The metrics that hold limits against something else than a stored baseline."""

JudgeMetric = Callable[[Observation, Limits, Baseline | None, Look], list[Judgement]]

JUDGES: dict[str, JudgeMetric] = {
    "perplexity": judge_perplexity,
    "divergence": judge_divergence,
    "batches": judge_batches,
    "noise": judge_noise,
    "devices": judge_devices,
    "oracle": judge_oracle,
    "routing": judge_routing,
    "size": judge_size,
    "imatrix": judge_imatrix,
    "speed": judge_speed,
    "memory": judge_memory,
}
"""Each metric that a marker may ask about, and what judges it."""


_HAS_CAUSE = frozenset({VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE, VerdictKind.INVALID})


def conclude(judgements: list[Judgement], seen: Observation, baseline: Baseline | None) -> Verdict:
    """Combine judgements: the worst decides, and a move away from the baseline gets its cause."""
    kind = worst([item.verdict for item in judgements])
    deciding = [item for item in judgements if item.verdict is kind]
    # Several metrics may give one reason, such as another source.
    reason = "; ".join(dict.fromkeys(item.reason for item in deciding)) or "measured"
    cause = None
    # What is not finite broke no limit of the baseline's, but differs from it all the same.
    moved = {
        item.metric
        for item in deciding
        if item.against in {"baseline", "anchor"} or kind is VerdictKind.INVALID
    }
    last_step = [item for item in judgements if item.against == "baseline" and item.metric in moved]
    only_drifted = {item.metric for item in last_step} == moved and all(
        item.verdict.is_green for item in last_step
    )
    if kind is VerdictKind.REGRESSED and any(item.against == "oracle" for item in deciding):
        cause = Cause(kind=CauseKind.WRONG_ENGINE)
    elif kind is VerdictKind.REGRESSED and moved and only_drifted:
        cause = Cause(kind=CauseKind.DRIFTED)
    elif (
        kind in _HAS_CAUSE
        and moved
        and baseline is not None
        and not_comparable(seen, baseline) is None
    ):
        cause = find_cause(seen, baseline, moved=moved)
    return Verdict(kind=kind, reason=reason, judgements=tuple(judgements), cause=cause)
