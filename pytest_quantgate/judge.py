"""Measurement, limit and baseline in, verdict and evidence out; no input or output here.

Every rule is written as "pass only if": a number that is not finite never passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_quantgate import statistics
from pytest_quantgate.baselines.schema import Baseline
from pytest_quantgate.baselines.tensors import compare_tensors, pack_tensors
from pytest_quantgate.cause import find_cause
from pytest_quantgate.config import Limits
from pytest_quantgate.limits import MAX_MEAN_KLD_NATS, MIN_KLD_INCREASE_NATS
from pytest_quantgate.metrics.perplexity import ChunkScore, common_chunks
from pytest_quantgate.metrics.size import SizeMeasurement
from pytest_quantgate.observation import Observation, percent, token_ids_changed
from pytest_quantgate.verdicts import Judgement, Verdict, VerdictKind, worst

ALPHA_REGRESSED = 0.001
"""One-sided and fixed a cell, so that a cell alone gets the verdict it gets in the whole run."""

ALPHA_PASS = 0.05
"""One-sided; green needs every cell, so PASS needs no correction for many cells."""

_KIND = {
    statistics.Outcome.INSIDE: VerdictKind.PASS,
    statistics.Outcome.OUTSIDE: VerdictKind.REGRESSED,
    statistics.Outcome.UNDECIDED: VerdictKind.INCONCLUSIVE,
    statistics.Outcome.NOT_FINITE: VerdictKind.INVALID,
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look: the errors that it may spend, and whether it is the last one."""

    alpha_pass: float
    alpha_regressed: float
    is_last: bool


def declared_looks(chunks: tuple[int, ...]) -> tuple[Look, ...]:
    """Return the looks of numbers of chunks declared beforehand."""
    passing = statistics.spending(chunks, ALPHA_PASS)
    regressed = statistics.spending(chunks, ALPHA_REGRESSED)
    return tuple(
        Look(alpha_pass=p, alpha_regressed=r, is_last=number == len(chunks) - 1)
        for number, (p, r) in enumerate(zip(passing, regressed, strict=True))
    )


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """How a metric is shown: its name, and an estimate's unit turned into what is printed."""

    metric: str
    name: str
    shown: Callable[[float], float]
    text: Callable[[float], str]


_PPL = _Scale(metric="perplexity", name="PPL", shown=statistics.ppl_change, text=percent)


def _plain_nats(nats: float) -> str:
    return f"{nats:.3g} nats"


_KLD = _Scale(metric="divergence", name="mean KLD", shown=float, text=_plain_nats)
_KLD_CHANGE = _Scale(
    metric="divergence", name="mean KLD", shown=float, text=lambda x: f"{x:+.3g} nats"
)
_OTHER_TOP = _Scale(
    metric="divergence",
    name="share of tokens with another top token",
    shown=float,
    text=lambda x: f"{100 * x:.2f} %",
)


def _by_bounds(
    scale: _Scale,
    against: str,
    before: Sequence[float],
    after: Sequence[float],
    chunks: Sequence[ChunkScore],
    limit: float,
    look: Look,
    n_chunks_in_text: int,
    *,
    final: bool = False,
) -> Judgement:
    """Judge a paired difference of per-chunk sums by its confidence bounds.

    Args:
        scale: how it is shown.
        against: what ``before`` is of.
        before: sums to compare with, a chunk each.
        after: sums that were measured, a chunk each.
        chunks: these chunks.
        limit: the largest difference allowed, in the estimate's own unit a token.
        look: which errors may be spent.
        n_chunks_in_text: how many there would be.
        final: bit-equal values here are bit-equal on every further chunk.

    """
    estimate = statistics.compare_paired(
        before,
        after,
        [chunk.tokens for chunk in chunks],
        [chunk.document for chunk in chunks],
        [chunk.index for chunk in chunks],
    )
    identical = estimate.chunks_differing == 0
    decision = statistics.decide(
        estimate,
        limit,
        alpha_pass=look.alpha_pass,
        alpha_regressed=look.alpha_regressed,
        identical=identical,
        last_look=look.is_last or final,
    )
    kind = _KIND[decision.outcome]
    low, high = scale.shown(decision.lower_bound), scale.shown(decision.upper_bound)
    change, shown_limit = scale.shown(estimate.mean), scale.shown(limit)
    more = None
    if identical:
        reason = f"{scale.name} identical to the {against}'s on {estimate.tokens:,} tokens"
    else:
        bounds = f" [{scale.text(low)}, {scale.text(high)}]" if math.isfinite(high) else ""
        where = "" if against == "limit" else f" against the {against}"
        reason = (
            f"{scale.name} {scale.text(change)}{bounds}{where} over {estimate.chunks} chunks in"
            f" {estimate.clusters} clusters, limit {scale.text(shown_limit)}"
        )
    if kind is VerdictKind.INCONCLUSIVE:
        reason += f": {decision.reason.value}"
        more = statistics.chunks_to_decide(
            estimate,
            limit,
            alpha_pass=look.alpha_pass,
            alpha_regressed=look.alpha_regressed,
        )
        if more is not None and look.is_last:
            left = n_chunks_in_text - estimate.chunks
            reason += f"; about {more:,} more chunks would decide (the text has {left:,} more)"
    if kind is VerdictKind.PASS and against == "baseline" and 0 < limit < -decision.upper_bound:
        kind = VerdictKind.IMPROVED
    return Judgement(
        metric=scale.metric,
        against=against,
        verdict=kind,
        reason=reason,
        estimate=change,
        low=low,
        high=high,
        limit=shown_limit,
        more_chunks=more,
    )


def _figure(value: float) -> str:
    """Write a perplexity with its digits, and a number of bytes in full."""
    return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:,.6g}"


def _at_most(metric: str, name: str, value: float, limit: float, unit: str) -> Judgement:
    """Judge a number that has no sampling error against a maximum."""
    if not math.isfinite(value):
        verdict, relation = VerdictKind.INVALID, "is not finite, limit"
    elif value <= limit:
        verdict, relation = VerdictKind.PASS, "is within"
    else:
        verdict, relation = VerdictKind.REGRESSED, "is above"
    return Judgement(
        metric=metric,
        against="limit",
        verdict=verdict,
        reason=f"{name} {_figure(value)}{unit} {relation} {_figure(limit)}{unit}",
        estimate=value,
        limit=limit,
    )


def _only(metric: str, against: str, verdict: VerdictKind, reason: str) -> Judgement:
    return Judgement(metric=metric, against=against, verdict=verdict, reason=reason)


def _other_source(seen: Observation, baseline: Baseline) -> str | None:
    """Say that a model was made from another file than the baseline's, or None."""
    before, now = baseline.source_sha256, seen.source_sha256
    if before is None or now is None or before == now:
        return None
    return (
        f"the model's source is another file than the baseline's (SHA-256 {now[:12]},"
        f" was {before[:12]})"
    )


def not_comparable(seen: Observation, baseline: Baseline) -> str | None:
    """Say why a measurement and a baseline cannot be compared, or None."""
    stored = baseline.perplexity
    if stored.text_sha256 != seen.text_sha256:
        hint = ""
        if stored.text_sha256 == seen.text_sha256_with_lf:
            hint = ": it has CRLF line ends where the baseline's text had LF"
        return (
            f"the text's bytes are not the baseline's (SHA-256 {seen.text_sha256[:12]}, was"
            f" {stored.text_sha256[:12]}){hint}"
        )
    other = _other_source(seen, baseline)
    if other is not None:
        return other
    if not set(stored.chunks.index) & {chunk.index for chunk in seen.perplexity.chunks}:
        return "the baseline has none of the chunks that were measured"
    return None


def _against_column(
    scale: _Scale,
    seen: Observation,
    baseline: Baseline,
    column: Sequence[float],
    value: Callable[[ChunkScore], float],
    limit: float,
    look: Look,
) -> Judgement:
    """Judge against a column of the baseline's chunks."""
    stored = dict(zip(baseline.perplexity.chunks.index, column, strict=True))
    chunks = [chunk for chunk in seen.perplexity.chunks if chunk.index in stored]
    return _by_bounds(
        scale,
        "baseline",
        [stored[chunk.index] for chunk in chunks],
        [value(chunk) for chunk in chunks],
        chunks,
        limit,
        look,
        seen.perplexity.n_chunks_in_text,
        final=seen.same_computation,
    )


def judge_perplexity(
    seen: Observation, limits: Limits, baseline: Baseline | None, look: Look
) -> list[Judgement]:
    """Judge perplexity against each limit that is set."""
    measured = seen.perplexity
    if not measured.is_finite or not math.isfinite(measured.perplexity):
        reason = "a token's log-likelihood is not finite"
        return [_only("perplexity", "limit", VerdictKind.INVALID, reason)]
    judgements = []
    if limits.ppl_max is not None:
        judgements.append(_at_most("perplexity", "PPL", measured.perplexity, limits.ppl_max, ""))
    if seen.reference is not None and limits.ppl_vs_reference is not None:
        mine, theirs = common_chunks(measured, seen.reference)
        judgements.append(
            _by_bounds(
                _PPL,
                "reference",
                [seen.reference.chunks[i].nll_sum_nats for i in theirs],
                [measured.chunks[i].nll_sum_nats for i in mine],
                [measured.chunks[i] for i in mine],
                statistics.ppl_limit_nats(limits.ppl_vs_reference),
                look,
                measured.n_chunks_in_text,
            )
        )
    if limits.ppl_vs_baseline is None or baseline is None:
        return judgements
    obstacle = not_comparable(seen, baseline)
    if obstacle is not None:
        judgements.append(_only("perplexity", "baseline", VerdictKind.NOT_COMPARABLE, obstacle))
        return judgements
    changed = token_ids_changed(seen, baseline)
    if changed:
        reason = f"the same text has other token ids in {changed} of {len(measured.chunks)} chunks"
        judgements.append(_only("perplexity", "baseline", VerdictKind.REGRESSED, reason))
        return judgements
    judgements.append(
        _against_column(
            _PPL,
            seen,
            baseline,
            baseline.perplexity.chunks.nll_sum_nats,
            lambda chunk: chunk.nll_sum_nats,
            statistics.ppl_limit_nats(limits.ppl_vs_baseline),
            look,
        )
    )
    return [*judgements, *_judge_drift(seen, limits, baseline, look)]


def _judge_drift(
    seen: Observation, limits: Limits, baseline: Baseline, look: Look
) -> list[Judgement]:
    """Judge the sum of the accepted changes: steps that are small each can add up."""
    accepted = dict(
        zip(baseline.perplexity.chunks.index, baseline.perplexity.chunks.nll_sum_nats, strict=True)
    )
    first = dict(zip(baseline.anchor.index, baseline.anchor.nll_sum_nats, strict=True))
    if limits.ppl_vs_anchor is None or all(
        first.get(index, value) == value for index, value in accepted.items()
    ):
        return []
    chunks = [chunk for chunk in seen.perplexity.chunks if chunk.index in first]
    if not chunks:
        return []
    return [
        _by_bounds(
            _PPL,
            "anchor",
            [first[chunk.index] for chunk in chunks],
            [chunk.nll_sum_nats for chunk in chunks],
            chunks,
            statistics.ppl_limit_nats(limits.ppl_vs_anchor),
            look,
            seen.perplexity.n_chunks_in_text,
            final=seen.same_computation,
        )
    ]


def judge_divergence(
    seen: Observation, limits: Limits, baseline: Baseline | None, look: Look
) -> list[Judgement]:
    """Judge the divergence from the reference; the reference itself has none."""
    if seen.reference is None:
        return []
    measured, found = seen.perplexity, seen.divergence
    if found is None:
        # The default limits ask for it only where the baseline's engine could.
        asked = limits.kld_p99_max, limits.same_top_min
        wanted = any(asked) or limits.kld_mean_max not in {None, MAX_MEAN_KLD_NATS}
        if not wanted and (baseline is None or baseline.divergence is None):
            return []
        reason = "the engine gave no distributions to compare with the reference's"
        return [_only("divergence", "reference", VerdictKind.UNSUPPORTED, reason)]
    sums = [_kld_sum(chunk) for chunk in measured.chunks]
    if not all(math.isfinite(value) for value in sums):
        reason = "a token's divergence is not finite"
        return [_only("divergence", "reference", VerdictKind.INVALID, reason)]
    judgements = []
    zeros = [0.0] * len(sums)
    if limits.kld_mean_max is not None:
        if limits.kld_mean_max == MAX_MEAN_KLD_NATS:
            # The default limit is there for garbage: a fact of this text, without an interval.
            judgements.append(
                _at_most(
                    "divergence", "mean KLD", found.mean_kld_nats, limits.kld_mean_max, " nats"
                )
            )
        else:
            judgements.append(
                _by_bounds(
                    _KLD,
                    "limit",
                    zeros,
                    sums,
                    measured.chunks,
                    limits.kld_mean_max,
                    look,
                    measured.n_chunks_in_text,
                )
            )
    if limits.kld_p99_max is not None:
        p99 = found.kld_percentiles_nats["99"]
        judgements.append(_at_most("divergence", "p99 KLD", p99, limits.kld_p99_max, " nats"))
    if limits.same_top_min is not None:
        mine, theirs = common_chunks(measured, seen.reference)
        differing = (
            (measured.top_tokens[mine] != seen.reference.top_tokens[theirs]).sum(axis=1).tolist()
        )
        judgements.append(
            _by_bounds(
                _OTHER_TOP,
                "limit",
                [0.0] * len(mine),
                differing,
                [measured.chunks[i] for i in mine],
                1 - limits.same_top_min,
                look,
                measured.n_chunks_in_text,
            )
        )
    if (
        limits.kld_vs_baseline is not None
        and baseline is not None
        and baseline.divergence is not None
        and not_comparable(seen, baseline) is None
        and not token_ids_changed(seen, baseline)
    ):
        allowed = max(
            limits.kld_vs_baseline * baseline.divergence.mean_kld_nats, MIN_KLD_INCREASE_NATS
        )
        judgements.append(
            _against_column(
                _KLD_CHANGE,
                seen,
                baseline,
                baseline.divergence.kld_sum_nats,
                _kld_sum,
                allowed,
                look,
            )
        )
    return judgements


def _kld_sum(chunk: ChunkScore) -> float:
    return math.nan if chunk.kld_sum_nats is None else chunk.kld_sum_nats


def judge_size(
    seen: Observation, limits: Limits, baseline: Baseline | None, _look: Look
) -> list[Judgement]:
    """Judge size and tensor types against each limit that is set."""
    size = seen.size
    judgements = []
    if limits.bits_per_weight_max is not None:
        limit = limits.bits_per_weight_max
        judgements.append(_at_most("size", "size", size.bits_per_weight, limit, " bits per weight"))
    if limits.size_max_bytes is not None:
        judgements.append(
            _at_most("size", "size", size.file_bytes, limits.size_max_bytes, " bytes")
        )
    if limits.size_vs_reference is not None and seen.reference_file_bytes is not None:
        judgements.append(
            _relative_size("reference", size, seen.reference_file_bytes, limits.size_vs_reference)
        )
    if limits.size_vs_baseline is not None and baseline is not None:
        other = _other_source(seen, baseline)
        if other is not None:
            return [*judgements, _only("size", "baseline", VerdictKind.NOT_COMPARABLE, other)]
        changes = compare_tensors(baseline.size.tensors, pack_tensors(seen.tensors))
        if not_comparable(seen, baseline) is None and changes.types_changed:
            reason = changes.describe_types()
            judgements.append(_only("size", "baseline", VerdictKind.REGRESSED, reason))
        judgements.append(
            _relative_size("baseline", size, baseline.size.file_bytes, limits.size_vs_baseline)
        )
    return judgements


def _relative_size(
    against: str, size: SizeMeasurement, before_bytes: int, limit: float
) -> Judgement:
    change = size.file_bytes / before_bytes - 1
    verdict = VerdictKind.PASS if change <= limit else VerdictKind.REGRESSED
    return Judgement(
        metric="size",
        against=against,
        verdict=verdict,
        reason=(
            f"size {percent(change)} against the {against} ({size.file_bytes:,} bytes, was"
            f" {before_bytes:,}), limit {percent(limit)}"
        ),
        estimate=change,
        limit=limit,
    )


def judge_batches(
    seen: Observation, limits: Limits, _baseline: Baseline | None, _look: Look
) -> list[Judgement]:
    """Judge the batch geometry that is furthest from one batch."""
    if seen.batches is None or limits.batch_kld_max is None:
        return []
    worst_one = seen.batches.worst
    name = f"mean KLD of {worst_one.name} against one batch"
    return [_at_most("batches", name, worst_one.mean_kld_nats, limits.batch_kld_max, " nats")]


JudgeMetric = Callable[[Observation, Limits, Baseline | None, Look], list[Judgement]]

JUDGES: dict[str, JudgeMetric] = {
    "perplexity": judge_perplexity,
    "divergence": judge_divergence,
    "batches": judge_batches,
    "size": judge_size,
}
"""Each metric that a marker may ask about, and what judges it."""


def conclude(
    judgements: list[Judgement], seen: Observation, baseline: Baseline | None, *, baseline_cpu: bool
) -> Verdict:
    """Combine judgements: the worst decides, and a regression gets its cause."""
    kind = worst([item.verdict for item in judgements])
    deciding = [item for item in judgements if item.verdict is kind]
    # Several metrics may give one reason, such as another source.
    reason = "; ".join(dict.fromkeys(item.reason for item in deciding)) or "measured"
    cause = None
    regressed = [item for item in deciding if item.against in {"baseline", "anchor"}]
    if kind is VerdictKind.REGRESSED and baseline is not None and regressed:
        cause = find_cause(
            seen,
            baseline,
            same_quantizer_cpu=baseline_cpu,
            moved={item.metric for item in regressed},
        )
    return Verdict(kind=kind, reason=reason, judgements=tuple(judgements), cause=cause)
