"""Measurement, limit and baseline in, verdict and evidence out; no input or output here.

Every rule is written as "pass only if": a number that is not finite never passes.
"""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pytest_quantgate import statistics
from pytest_quantgate.baselines.schema import Baseline
from pytest_quantgate.baselines.tensors import TensorChanges, compare_tensors, pack_tensors
from pytest_quantgate.config import Limits
from pytest_quantgate.formats import Format
from pytest_quantgate.metrics.perplexity import (
    PerplexityMeasurement,
    TokenChanges,
    common_chunks,
)
from pytest_quantgate.metrics.size import SizeMeasurement
from pytest_quantgate.models.gguf_file import TensorDigest
from pytest_quantgate.verdicts import Judgement, Verdict, VerdictKind, worst

ALPHA_REGRESSED = 0.001
"""One-sided and fixed a cell, so that a cell alone gets the verdict it gets in the whole run."""

ALPHA_PASS = 0.05
"""One-sided; green needs every cell, so PASS needs no correction for many cells."""


def default_limits(wanted: Format) -> Limits:
    """Return the limits against the baseline that hold where nothing else is configured."""
    bits = wanted.nominal_bits_per_weight
    ppl = 0.0025 if bits >= 4 else 0.005 if bits >= 3 else 0.01
    return Limits(ppl_vs_baseline=ppl, size_vs_baseline=0.005)


def merge_limits(*layers: Limits) -> Limits:
    """Return the limits of the last layer that sets each."""
    merged: dict[str, object] = {}
    for layer in layers:
        merged |= layer.model_dump(exclude_none=True)
    return Limits.model_validate(merged)


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
class Observation:
    """What was observed in a cell, up to a look.

    ``tokens_changed`` compares with the baseline's per-token values, None where they are gone;
    ``same_computation`` says that file, libraries, processor and settings are the baseline's:
    on a CPU equal values then stay equal on every further chunk.
    """

    format: Format
    perplexity: PerplexityMeasurement
    reference: PerplexityMeasurement | None
    reference_file_bytes: int | None
    size: SizeMeasurement
    tensors: tuple[TensorDigest, ...]
    source_sha256: str | None
    text_sha256: str
    text_sha256_with_lf: str
    quantizer_cpu: str | None
    same_computation: bool
    tokens_changed: TokenChanges | None


def percent(fraction: float | None, digits: int = 2) -> str:
    """Format a relative change with its sign."""
    if fraction is None or not math.isfinite(fraction):
        return "not finite" if fraction is not None else "–"
    return f"{100 * fraction:+.{digits}f} %".replace("-", "−")


def _measured(metric: str, against: str, value: float) -> Judgement:
    return Judgement(
        metric=metric,
        against=against,
        verdict=VerdictKind.MEASURED,
        reason="measured",
        estimate=value,
    )


def _figure(value: float) -> str:
    """Write a perplexity with its digits, and a number of bytes in full."""
    return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:,.6g}"


def _bounded(metric: str, value: float, limit: float, unit: str) -> Judgement:
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
        reason=f"{metric} {_figure(value)}{unit} {relation} {_figure(limit)}{unit}",
        estimate=value,
        limit=limit,
    )


def _paired(
    against: str,
    before: list[float],
    after: list[float],
    seen: PerplexityMeasurement,
    positions: list[int],
    limit: float,
    look: Look,
    *,
    final: bool,
) -> Judgement:
    chunks = [seen.chunks[position] for position in positions]
    documents = [chunk.document for chunk in chunks]
    estimate = statistics.compare_paired(
        before, after, [c.tokens for c in chunks], documents, [c.index for c in chunks]
    )
    identical = estimate.chunks_differing == 0
    decision = statistics.decide(
        estimate,
        statistics.ppl_limit_nats(limit),
        alpha_pass=look.alpha_pass,
        alpha_regressed=look.alpha_regressed,
        identical=identical,
        last_look=look.is_last or final,
    )
    change = statistics.ppl_change(estimate.mean)
    low, high = (
        statistics.ppl_change(bound) for bound in (decision.lower_bound, decision.upper_bound)
    )
    kind = {
        statistics.Outcome.INSIDE: VerdictKind.PASS,
        statistics.Outcome.OUTSIDE: VerdictKind.REGRESSED,
        statistics.Outcome.UNDECIDED: VerdictKind.INCONCLUSIVE,
        statistics.Outcome.NOT_FINITE: VerdictKind.INVALID,
    }[decision.outcome]
    units = f"{estimate.chunks} chunks in {estimate.clusters} clusters"
    more = None
    if identical:
        reason = f"PPL identical to the {against}'s on {estimate.tokens:,} tokens"
    else:
        bounds = f" [{percent(low)}, {percent(high)}]" if math.isfinite(high) else ""
        reason = f"PPL {percent(change)}{bounds} against the {against} over {units}"
        reason += f", limit {percent(limit)}"
    if kind is VerdictKind.INCONCLUSIVE:
        reason += f": {decision.reason.value}"
        more = statistics.chunks_to_decide(
            estimate,
            statistics.ppl_limit_nats(limit),
            alpha_pass=look.alpha_pass,
            alpha_regressed=look.alpha_regressed,
        )
        left = seen.n_chunks_in_text - len(seen.chunks)
        if more is not None and look.is_last:
            reason += f"; about {more:,} more chunks would decide (the text has {left:,} more)"
    if (
        kind is VerdictKind.PASS
        and against == "baseline"
        and limit > 0
        and decision.upper_bound < -statistics.ppl_limit_nats(limit)
    ):
        kind = VerdictKind.IMPROVED
    return Judgement(
        metric="perplexity",
        against=against,
        verdict=kind,
        reason=reason,
        estimate=change,
        low=low,
        high=high,
        limit=limit,
        more_chunks=more,
    )


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
    stored_chunks = set(stored.chunks.index)
    if not stored_chunks & {chunk.index for chunk in seen.perplexity.chunks}:
        return "the baseline has none of the chunks that were measured"
    return None


def _token_ids_changed(seen: Observation, baseline: Baseline) -> int:
    stored = dict(
        zip(baseline.perplexity.chunks.index, baseline.perplexity.chunks.token_ids, strict=True)
    )
    return sum(
        stored.get(chunk.index, chunk.token_ids_sha256[:16]) != chunk.token_ids_sha256[:16]
        for chunk in seen.perplexity.chunks
    )


def judge_perplexity(
    seen: Observation, limits: Limits, baseline: Baseline | None, look: Look
) -> list[Judgement]:
    """Judge perplexity against each limit that is set."""
    measured = seen.perplexity
    if not measured.is_finite or not math.isfinite(measured.perplexity):
        return [
            Judgement(
                metric="perplexity",
                against="limit",
                verdict=VerdictKind.INVALID,
                reason="a token's log-likelihood is not finite",
            )
        ]
    judgements = []
    if limits.ppl_max is not None:
        judgements.append(_bounded("PPL", measured.perplexity, limits.ppl_max, ""))
    if seen.reference is not None:
        mine, theirs = common_chunks(measured, seen.reference)
        after = [measured.chunks[i].nll_sum_nats for i in mine]
        before = [seen.reference.chunks[i].nll_sum_nats for i in theirs]
        if limits.ppl_vs_reference is not None:
            judgements.append(
                _paired(
                    "reference",
                    before,
                    after,
                    measured,
                    mine,
                    limits.ppl_vs_reference,
                    look,
                    final=False,
                )
            )
    if limits.ppl_vs_baseline is not None and baseline is not None:
        reason = not_comparable(seen, baseline)
        if reason is not None:
            return [*judgements, _verdict_only("baseline", VerdictKind.NOT_COMPARABLE, reason)]
        changed = _token_ids_changed(seen, baseline)
        if changed:
            judgements.append(
                _verdict_only(
                    "baseline",
                    VerdictKind.REGRESSED,
                    f"the same text has other token ids in {changed} of"
                    f" {len(measured.chunks)} chunks",
                )
            )
        else:
            stored = dict(
                zip(
                    baseline.perplexity.chunks.index,
                    baseline.perplexity.chunks.nll_sum_nats,
                    strict=True,
                )
            )
            common = [i for i, chunk in enumerate(measured.chunks) if chunk.index in stored]
            judgements.append(
                _paired(
                    "baseline",
                    [stored[measured.chunks[i].index] for i in common],
                    [measured.chunks[i].nll_sum_nats for i in common],
                    measured,
                    common,
                    limits.ppl_vs_baseline,
                    look,
                    final=seen.same_computation,
                )
            )
    return judgements


def _verdict_only(against: str, verdict: VerdictKind, reason: str) -> Judgement:
    return Judgement(metric="perplexity", against=against, verdict=verdict, reason=reason)


def judge_size(seen: Observation, limits: Limits, baseline: Baseline | None) -> list[Judgement]:
    """Judge size and tensor types against each limit that is set."""
    size = seen.size
    judgements = []
    if limits.bits_per_weight_max is not None:
        judgements.append(
            _bounded("size", size.bits_per_weight, limits.bits_per_weight_max, " bits per weight")
        )
    if limits.size_max_bytes is not None:
        judgements.append(_bounded("size", size.file_bytes, limits.size_max_bytes, " bytes"))
    if limits.size_vs_reference is not None and seen.reference_file_bytes is not None:
        judgements.append(
            _relative_size("reference", size, seen.reference_file_bytes, limits.size_vs_reference)
        )
    if limits.size_vs_baseline is not None and baseline is not None:
        other = _other_source(seen, baseline)
        if other is not None:
            kind = VerdictKind.NOT_COMPARABLE
            return [
                *judgements,
                Judgement(metric="size", against="baseline", verdict=kind, reason=other),
            ]
        if not_comparable(seen, baseline) is None:
            changes = compare_tensors(baseline.size.tensors, pack_tensors(seen.tensors))
            if changes.types_changed:
                judgements.append(
                    Judgement(
                        metric="size",
                        against="baseline",
                        verdict=VerdictKind.REGRESSED,
                        reason=changes.describe_types(),
                    )
                )
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


def find_cause(
    seen: Observation, baseline: Baseline, *, same_quantizer_cpu: bool, moved: AbstractSet[str]
) -> str:
    """Say what moved a cell away from its baseline: tokenizer, quantizer or runtime.

    ``moved`` has the metrics that regressed: a file that grew around equal tensors did so in
    its metadata.
    """
    if _token_ids_changed(seen, baseline):
        return "cause: tokenizer (the same text has other token ids)"
    changes: TensorChanges = compare_tensors(baseline.size.tensors, pack_tensors(seen.tensors))
    parts = ["tokenization same"]
    if changes.any:
        attributable = same_quantizer_cpu or bool(changes.types_changed or changes.added_or_gone)
        parts.append(changes.describe())
        parts.append(f"size {percent(seen.size.file_bytes / baseline.size.file_bytes - 1)}")
        cause = "quantizer" if attributable else "not attributable: made on another kind of CPU"
    else:
        parts.append(f"all {len(seen.tensors)} tensors same")
        cause = "the file's metadata" if moved == {"size"} else "runtime kernels"
    if seen.tokens_changed is not None:
        tokens = seen.tokens_changed
        parts.append(
            f"{tokens.changed:,} of {tokens.tokens:,} tokens changed, largest |Δ|"
            f" {tokens.largest_nats:.3g} nats"
        )
    return f"cause: {cause} ({'; '.join(parts)})"


def conclude(
    judgements: list[Judgement], seen: Observation, baseline: Baseline | None, *, baseline_cpu: bool
) -> Verdict:
    """Combine judgements: the worst decides, and a regression gets its cause."""
    kind = worst([item.verdict for item in judgements])
    deciding = [item for item in judgements if item.verdict is kind]
    # Both metrics may give one reason, such as another source.
    reason = "; ".join(dict.fromkeys(item.reason for item in deciding)) or "measured"
    cause = None
    regressed = [item for item in deciding if item.against == "baseline"]
    if kind is VerdictKind.REGRESSED and baseline is not None and regressed:
        cause = find_cause(
            seen,
            baseline,
            same_quantizer_cpu=baseline_cpu,
            moved={item.metric for item in regressed},
        )
    return Verdict(kind=kind, reason=reason, judgements=tuple(judgements), cause=cause)
