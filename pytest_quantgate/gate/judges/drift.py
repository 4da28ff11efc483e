"""Drift: the sum of the accepted changes, from the first accepted values on.

Steps that are small each can add up, and an accepted change of the text or of a setting must not
hide what it brought along: chunks that are known again by their tokens are judged all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_quantgate import stats
from pytest_quantgate.config.limit import MIN_KLD_INCREASE_NATS
from pytest_quantgate.config.metrics import LIMITS
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.bounds import by_bounds, grown_bytes, only, other_source
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gate.reasons.comparability import Plain, SectionMissing
from pytest_quantgate.gate.reasons.scales import PPL, kld_change
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.verdicts import Against, Judgement, VerdictKind


def judge_drift(
    metric: str, seen: Observation, limits: Limits, baseline: Baseline, look: stats.Look
) -> list[Judgement]:
    """Judge a metric against the first accepted values; nothing where it has no such limit.

    Nor where the limit against the baseline says it already: no change was accepted yet, and that
    limit is no wider. Another source is another model: its drift begins anew.
    """
    if metric not in _OF_METRIC or other_source(seen, baseline) is not None:
        return []
    return _OF_METRIC[metric](seen, limits, baseline, look)


def _of_perplexity(
    seen: Observation, limits: Limits, baseline: Baseline, look: stats.Look
) -> list[Judgement]:
    limit, step = limits.ppl_vs_anchor, limits.ppl_vs_baseline
    if limit is None or not len(seen.chunks) or baseline.perplexity is None:
        return []
    is_same_text = _is_same_text(seen, baseline)
    accepted = baseline.perplexity.chunks
    if is_same_text and _says_it_already(
        baseline, accepted.nll_sum_nats, baseline.anchor.nll_sum_nats, step, limit
    ):
        return []
    pair = baseline.first_accepted(seen.chunks, by_place=is_same_text)
    if not len(pair):
        fact = Plain.NO_ANCHORED_CHUNK
        return [only("perplexity", Against.ANCHOR, VerdictKind.NOT_COMPARABLE, fact)]
    nats, final = stats.ppl_limit_nats(limit), seen.same_computation and is_same_text
    return [by_bounds(PPL, Against.ANCHOR, pair.nll(), nats, look, pair.after, seen, final=final)]


def _of_divergence(
    seen: Observation, limits: Limits, baseline: Baseline, look: stats.Look
) -> list[Judgement]:
    limit, step = limits.kld_vs_anchor, limits.kld_vs_baseline
    if limit is None or baseline.perplexity is None or seen.chunks.kld_sums is None:
        return []
    is_same_text = _is_same_text(seen, baseline)
    accepted = baseline.perplexity.chunks
    if is_same_text and _says_it_already(
        baseline, accepted.kld_sum_nats, baseline.anchor.kld_sums, step, limit
    ):
        return []
    pair = baseline.first_accepted(seen.chunks, by_place=is_same_text).with_divergence()
    before, after = pair.before.kld_sums, pair.after.kld_sums
    if not before or not after:
        fact = SectionMissing(what="divergence", of="first accepted")
        is_asked = step is None  # the default limits ask for what there is
        return [only("divergence", Against.NOTHING, VerdictKind.NO_BASELINE, fact)] * is_asked
    mean_nats = pair.before.mean(before).mean
    allowed_nats = _allowed_rise_nats(limits, limit, mean_nats)
    return [
        by_bounds(
            kld_change(mean_nats),
            Against.ANCHOR,
            pair.after.difference(before, after),
            allowed_nats,
            look,
            pair.after,
            seen,
            final=seen.same_computation and is_same_text,
        )
    ]


def _of_size(
    seen: Observation, limits: Limits, baseline: Baseline, _look: stats.Look
) -> list[Judgement]:
    limit, step = limits.size_vs_anchor, limits.size_vs_baseline
    first_bytes = baseline.anchor.file_bytes
    if limit is None:
        return []
    is_same = seen.cell.key in {None, baseline.key} or not len(seen.chunks)
    if is_same and first_bytes == baseline.size.file_bytes and step is not None and step <= limit:
        return []
    return [grown_bytes("size", "size", Against.ANCHOR, seen, seen.file_bytes, first_bytes, limit)]


_OF_METRIC: dict[str, Callable[[Observation, Limits, Baseline, stats.Look], list[Judgement]]] = {
    "perplexity": _of_perplexity,
    "divergence": _of_divergence,
    "size": _of_size,
}


def _is_same_text(seen: Observation, baseline: Baseline) -> bool:
    """Return whether a chunk's place in the text names the same tokens."""
    return (
        seen.cell.key in {None, baseline.key}
        and seen.cell.text_sha256 == baseline.scored.text_sha256
    )


def _says_it_already(
    baseline: Baseline,
    accepted: Sequence[float | None],
    first: Sequence[float | None],
    step: float | None,
    limit: float,
) -> bool:
    """Return whether the accepted sums are the first ones, and their limit is no wider."""
    of_chunk = dict(zip(baseline.anchor.index, first, strict=True))
    has_moved = any(
        of_chunk.get(index, nats) != nats
        for index, nats in zip(baseline.scored.chunks.index, accepted, strict=True)
    )
    return not has_moved and step is not None and step <= limit


def _allowed_rise_nats(limits: Limits, limit: float, mean_nats: float) -> float:
    """Return how far the mean divergence may have risen in all.

    By default no less than what is harmless beside perplexity's limit of the same kind, as for a
    single change of the runtime; a limit that the project set is not raised to that.
    """
    allowed_nats = max(limit * mean_nats, MIN_KLD_INCREASE_NATS)
    if limit != LIMITS["kld_vs_anchor"].default or limits.ppl_vs_anchor is None:
        return allowed_nats
    ppl_limit_nats = stats.ppl_limit_nats(limits.ppl_vs_anchor)
    return max(allowed_nats, stats.kld_limit_nats(mean_nats, ppl_limit_nats, limit))
