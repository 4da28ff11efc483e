"""Accepting what was measured as the cell's baseline."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from statistics import median

from pytest_quantgate.config.metrics import METRICS
from pytest_quantgate.gate.acceptance import kept_anchor, merge_parts
from pytest_quantgate.gate.loop import answer
from pytest_quantgate.gate.question import Answer, Question
from pytest_quantgate.matrix.cells import Cell
from pytest_quantgate.matrix.resolved import ResolvedCell
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.metrics.scoring import measure_perplexity
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.record import CellRecord
from pytest_quantgate.results.verdicts import CauseKind, Verdict, VerdictKind
from pytest_quantgate.storage.keys import key_of

_WHOLE = frozenset(name for name, metric in METRICS.items() if metric.in_baseline)
"""The metrics that make up a whole baseline of a cell; others add sections of their own."""

NEEDS_REASON = '--snapshot-update needs a reason; add --quant-reason "WHY"'

_NEVER_ACCEPTED = frozenset(
    {
        VerdictKind.INVALID,
        VerdictKind.CRASHED,
        VerdictKind.TIMEOUT,
        VerdictKind.UNAVAILABLE,
        VerdictKind.UNSUPPORTED,
        VerdictKind.INCONCLUSIVE,
    }
)


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """What an update comes to: a baseline to store, or why there is none.

    Neither is set where no baseline has a part in what was asked.
    """

    record: CellRecord
    baseline: Baseline | None = None
    refusal: str | None = None


def lock_baseline(session: Session, cell: Cell) -> AbstractContextManager[None]:
    """Keep other tests of a cell, in other processes too, from storing their part meanwhile."""
    path = session.store.path(session.matrix.key(cell))
    return session.cache.lock(f"baseline-{key_of(path=str(path))[:32]}")


def accept(
    session: Session, cell: Cell, questions: Sequence[Question], result: Answer, reason: str
) -> Acceptance:
    """Return the baseline that accepts what a test asked about; the lock must be held.

    Args:
        session: the session.
        cell: which cell.
        questions: what the test asked.
        result: what it was answered.
        reason: why it is accepted.

    """
    refusal = _refusal(result) if reason else NEEDS_REASON
    if refusal is not None:
        return Acceptance(record=result.record, refusal=refusal)
    asked = {question.metric for question in questions}
    old = session.baseline(cell)
    resolved = session.resolve(cell)
    of_source = session.artifacts.described_file(resolved).source_sha256
    kept = old if old is not None and old.source_sha256 == of_source else None
    # What a first baseline stores with what was asked about is judged here: nobody else did.
    unasked = () if kept is not None else sorted({*_WHOLE, "oracle"} - asked)
    others = [Question(metric=name, limits=None) for name in unasked]
    full = answer(session, cell, others, full=True, measured=result.measured)
    refusal = _refusal(full) if kept is None else None
    if full.candidate is None or refusal is not None:
        why = refusal or "not accepted as a baseline: INVALID"
        return Acceptance(record=full.record, refusal=why)
    candidate = full.candidate
    if kept is not None and not asked >= _WHOLE:
        candidate = merge_parts(kept, candidate, asked)
    if candidate == old:
        return Acceptance(record=result.record)
    _keep_tokens(session, resolved)
    change = describe_change(old, candidate, session.baseline_before(cell))
    record = _accepted(full.record, result.verdict, change)
    return Acceptance(record=record, baseline=candidate.model_copy(update={"reason": reason}))


def _accepted(record: CellRecord, verdict: Verdict, change: str) -> CellRecord:
    """Return the record of all that is stored, with the verdict on what was asked about."""
    return replace(
        record,
        verdict=verdict.kind.value,
        reason=verdict.reason,
        cause=verdict.cause,
        judgements=verdict.judgements,
        accepted=change,
    )


def _keep_tokens(session: Session, resolved: ResolvedCell) -> None:
    """Keep the values of single tokens, to which a later run's are compared."""
    if resolved.text is not None:
        n_chunks = session.artifacts.chunks_stored(resolved)
        session.measurements.keep_tokens(measure_perplexity(session, resolved, n_chunks))


def _refusal(result: Answer) -> str | None:
    """Return why a verdict is never accepted, None where it may be."""
    verdict = result.verdict
    is_wrong = verdict.cause is not None and verdict.cause.kind is CauseKind.WRONG_ENGINE
    if verdict.kind not in _NEVER_ACCEPTED and not is_wrong:
        return None
    return f"not accepted as a baseline: {verdict.kind.value}: {verdict.reason}"


def describe_change(old: Baseline | None, new: Baseline, earlier: Baseline | None = None) -> str:
    """Return old → new and the relative change, for the review.

    ``earlier`` is the baseline under other settings whose place a new one takes.
    """
    size = f"{new.size.file_bytes:,} bytes"
    ppl = None if new.perplexity is None else new.perplexity.ppl
    parts = [] if ppl is None else [f"PPL {ppl:.4f}"]
    if old is None:
        parts = [f"{', '.join([*parts, size])} (new)"]
        parts += [] if earlier is None else _fate_of_anchor(earlier, new)
    else:
        if ppl is not None and old.perplexity is not None:
            before = old.perplexity.ppl
            parts = [f"PPL {before:.4f} → {ppl:.4f} ({100 * (ppl / before - 1):+.3f} %)"]
        change = new.size.file_bytes / old.size.file_bytes - 1
        parts.append(f"{old.size.file_bytes:,} → {size} ({100 * change:+.2f} %)")
        parts += _fate_of_anchor(old, new)
    return ", ".join([*parts, *_change_of_speed(old, new), *_change_of_memory(old, new)])


def _fate_of_anchor(old: Baseline, new: Baseline) -> list[str]:
    """Say what is left of the first accepted values where chunks cannot be known by their place."""
    if old.perplexity is None or new.perplexity is None:
        return []
    unlike = old.key.settings_unlike(new.key)
    if old.source_sha256 != new.source_sha256:
        change = "another source"
    elif unlike:
        change = "other settings"
    elif old.perplexity.text_sha256 != new.perplexity.text_sha256:
        change = "another text"
    else:
        return []
    kept = None
    if old.source_sha256 == new.source_sha256:
        kept = kept_anchor(new.perplexity.chunks, old, by_place=False)
    if kept is None:
        return [f"{change}: drift is judged from these values, what had drifted before is lost"]
    return [f"{change}: drift is judged from the first values of {len(kept.index)} equal chunks"]


def _change_of_speed(old: Baseline | None, new: Baseline) -> list[str]:
    parts = []
    for digest, speed in new.speed.items():
        before = None if old is None else old.speed.get(digest)
        if speed == before:
            continue
        for phase in ("prefill", "decode"):
            now = median(getattr(speed, f"{phase}_rates"))
            if before is None:
                parts.append(f"{phase} {now:,.4g} t/s (new)")
            else:
                was = median(getattr(before, f"{phase}_rates"))
                parts.append(
                    f"{phase} {was:,.4g} → {now:,.4g} t/s ({100 * (now / was - 1):+.1f} %)"
                )
    return parts


def _change_of_memory(old: Baseline | None, new: Baseline) -> list[str]:
    parts = []
    for digest, memory in new.memory.items():
        before = None if old is None else old.memory.get(digest)
        now = memory.peak_resident_bytes
        if before is None:
            parts.append(f"peak memory {now:,} bytes (new)")
        elif before != memory:
            was = before.peak_resident_bytes
            parts.append(f"peak memory {was:,} → {now:,} bytes ({100 * (now / was - 1):+.1f} %)")
    return parts
