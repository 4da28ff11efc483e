"""A cell's way through the gate.

Measure up to a look, take what stands as the baseline, judge, and stop or go on to the next look.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_quantgate import stats
from pytest_quantgate.config.metrics import METRICS
from pytest_quantgate.errors import CellError
from pytest_quantgate.gate.acceptance import make_baseline
from pytest_quantgate.gate.judge import conclude, judge_metric
from pytest_quantgate.gate.judges.absent import judge_absent, notes_of_absent, why_nothing
from pytest_quantgate.gate.judges.drift import judge_drift
from pytest_quantgate.gate.measuring import CellMeasurement, measure_cell
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gate.old_engine import OldEngine
from pytest_quantgate.gate.question import Answer, Asked, Question
from pytest_quantgate.gate.recording import failed_record
from pytest_quantgate.gate.sources import BaselineSource, Before, StoredBaselines, needs_text
from pytest_quantgate.gate.stopping import short_way
from pytest_quantgate.matrix.cells import Cell
from pytest_quantgate.matrix.resolved import ResolvedCell
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.metrics.registry import measure_once, notes_of
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.events import CellJudged, CellStarted
from pytest_quantgate.results.measurements.absent import Absent
from pytest_quantgate.results.verdicts import Against, Verdict, VerdictKind


def answer(
    session: Session,
    cell: Cell,
    questions: Sequence[Question],
    *,
    full: bool = False,
    measured: Mapping[str, Any] | None = None,
) -> Answer:
    """Measure and judge a cell; every error of the cell becomes its verdict.

    Args:
        session: the session.
        cell: which cell.
        questions: what is asked; several of one metric are judged one after the other.
        full: score all that a baseline stores, whatever is asked and a look decides.
        measured: metrics that were measured already, by name.

    """
    session.events.append(CellStarted(cell=cell.id))
    with session.stopwatch.stage("judging"):
        try:
            resolved = session.resolve(cell)
            result = _answer(session, resolved, questions, full=full, measured=measured or {})
        except CellError as error:
            result = failure(session, cell, error, questions)
    session.events.append(CellJudged(cell=cell.id, verdict=result.verdict.kind.value))
    return _recorded(session, cell, result)


def source_of(session: Session, cell: ResolvedCell) -> BaselineSource:
    """Return what a cell is held against.

    Raises:
        CellUnavailable: an old engine that is not there.

    """
    if session.settings.profile.against is None:
        return StoredBaselines(session, cell)
    return OldEngine(session, cell)


def failure(
    session: Session, cell: Cell, error: CellError, questions: Sequence[Question]
) -> Answer:
    """Turn an error of a cell into its verdict and record."""
    record = failed_record(session, cell, error)
    failed = Answer(record=record, verdict=Verdict(kind=record.kind, reason=record.reason))
    try:
        source = source_of(session, session.resolve(cell))
    except CellError:
        return _recorded(session, cell, failed)
    metrics = frozenset(item.metric for item in questions)
    return _recorded(session, cell, source.explain_failure(failed, metrics))


def _recorded(session: Session, cell: Cell, answer: Answer) -> Answer:
    """Return an answer whose record says what the verdict does, and where the time went.

    That is all since the cell before: a fixture may have had the file made, before the gate.
    """
    verdict, durations_s = answer.verdict, session.stopwatch.take()
    record = replace(
        answer.record,
        verdict=verdict.kind.value,
        reason=verdict.reason,
        cause=verdict.cause,
        judgements=verdict.judgements,
        seconds_s=sum(durations_s.values()),
        durations_s=durations_s,
        is_skipped=verdict.kind is VerdictKind.UNSUPPORTED and _is_excused(session, cell),
    )
    return replace(answer, record=record)


def _is_excused(session: Session, cell: Cell) -> bool:
    """Return whether what the engine refuses fails nothing.

    So it is where the profile lists the format as optional and no baseline says that an engine
    could, and where the old engine could not either, which is no fault of the new one.
    """
    if cell.id in session.unable_before:
        return True
    is_optional = cell.format.name in session.settings.profile.optional
    return is_optional and not session.store.has_any([session.matrix.key(cell)])


def _answer(
    session: Session,
    cell: ResolvedCell,
    questions: Sequence[Question],
    *,
    full: bool,
    measured: Mapping[str, Any],
) -> Answer:
    session.device(cell)  # one that is not there is refused before anything is made
    source = source_of(session, cell)
    asked = _ask(session, cell, questions, measured)
    looks = _looks(session, cell, asked, source, full=full)
    for n_chunks, look in looks:
        now = measure_cell(session, cell, n_chunks, asked.measured)
        before = source.before(now, asked, n_chunks)
        seen = _observe(session, now, before, asked)
        is_final = (n_chunks, look) == looks[-1]
        verdict = _judge(seen, before, asked, source, look, is_final=is_final)
        rest_may_differ = _rest_may_differ(session, now, seen, before, verdict)
        if not full and _is_decided(verdict) and not rest_may_differ:
            break
    notes = (
        *now.record.notes,
        *_note_of_beginning(session, now),
        *notes_of(asked.measured),
        *notes_of_absent(asked.absent),
    )
    result = Answer(
        record=replace(now.record, notes=notes),
        verdict=verdict,
        candidate=_candidate(now, before),
        measured=asked.measured,
    )
    return source.complete(now, result, n_chunks)


def _ask(
    session: Session, cell: ResolvedCell, questions: Sequence[Question], measured: Mapping[str, Any]
) -> Asked:
    """Find the limits that hold, and measure what is measured once a cell."""
    absent: dict[str, Absent] = {}
    if cell.is_shape:
        questions, absent = _questions_of_shape(cell, questions)
    once = {
        name: measure_once(session, name, cell, short_way(question))
        for name, question in {item.metric: item for item in questions}.items()
        if METRICS[name].measure
    }
    absent |= {name: item for name, item in once.items() if isinstance(item, Absent)}
    present = {name: item for name, item in once.items() if name not in absent}
    return Asked(
        limits=tuple((item.metric, item.limits or cell.limits) for item in questions),
        by_name=frozenset(item.metric for item in questions if item.limits is not None),
        absent=absent,
        measured={**present, **measured},
    )


def _questions_of_shape(
    cell: ResolvedCell, questions: Sequence[Question]
) -> tuple[tuple[Question, ...], dict[str, Absent]]:
    """Leave out what the profile would ask of a model with weights.

    Where nothing is left, what was left out says so.

    Raises:
        CellUnsupported: a limit of quality was asked for by name.

    """
    if any(not METRICS[item.metric].of_shapes and item.limits is not None for item in questions):
        cell.scored_text  # noqa: B018 # refuses a shape
    kept = tuple(item for item in questions if METRICS[item.metric].of_shapes)
    reason = f"model {cell.cell.model!r} is a shape, which has size and speed and no quality"
    left_out = {} if kept else {item.metric: Absent(reason=reason) for item in questions}
    return kept, left_out


def _looks(
    session: Session, cell: ResolvedCell, asked: Asked, source: BaselineSource, *, full: bool
) -> list[tuple[int | None, stats.Look]]:
    """Return the numbers of chunks at which the cell may be decided; None scores no text."""
    if cell.is_shape or not (full or needs_text(cell, asked.metrics)):
        return [(None, stats.plan_looks((), 1, 1)[0])]
    plan, budget = session.artifacts.chunk_plan(cell), session.artifacts.looks(cell)[-1]
    if full:
        budget = available = session.artifacts.chunks_stored(cell)
    else:
        available = min(source.n_chunks or budget, plan.n_chunks)
    looks = stats.plan_looks(
        session.settings.profile.looks or (),
        available,
        plan.n_chunks,
        plan.clusters,
    )
    if session.settings.profile.chunk_order == "text":
        # What an old engine measures ends with the budget, a stored baseline where it does.
        is_stored = session.settings.profile.against is None
        looks = stats.looks_in_text_order(looks, available if is_stored else budget)
        budget = available if is_stored else budget
    # Beyond the budget goes only what the bounds leave undecided.
    return [
        (look.chunks, replace(look, is_last=look.is_last or look.chunks >= budget))
        for look in looks
    ]


def _note_of_beginning(session: Session, now: CellMeasurement) -> tuple[str, ...]:
    """Say that the chunks of a text in its own order are its beginning, and no sample of it."""
    scored, total = len(now.record.chunks), now.record.n_chunks_in_text or 0
    if session.settings.profile.chunk_order != "text" or not 0 < scored < total:
        return ()
    return (
        f"the first {scored} of the text's {total} chunks were scored, in its own order: nothing"
        f" is known of the rest; raise chunks to {total}",
    )


def _observe(session: Session, now: CellMeasurement, before: Before, asked: Asked) -> Observation:
    cell, reference_bytes = now.cell, None
    if not cell.is_reference and any(
        limits.size_vs_reference is not None for _, limits in asked.limits
    ):
        reference = session.artifacts.described_file(session.reference(cell))
        reference_bytes = reference.header.n_bytes
    return Observation(
        cell=now.record,
        reference=None if now.reference is None else now.reference.chunks,
        reference_baseline=before.reference_baseline,
        reference_file_bytes=reference_bytes,
        text_sha256_with_lf="" if cell.text is None else cell.text.sha256_with_lf,
        domains=() if cell.text is None else tuple(span.name for span in cell.text.domains),
        same_computation=_is_same_computation(session, now, before),
        tokens_changed=before.tokens_changed,
        versus=before.versus,
    )


def _is_same_computation(session: Session, now: CellMeasurement, before: Before) -> bool:
    """Return whether a CPU is bound to give the baseline's values on every chunk."""
    baseline, record = before.baseline, now.record
    if baseline is None or record.made_by is None or not now.cell.placement.is_cpu:
        return False
    names = ("library_sha256", "system_info", "cpu", "n_batch", "n_ubatch")
    return (
        all(getattr(baseline.made_by, name) == getattr(record.made_by, name) for name in names)
    ) and _is_same_file(session, now, baseline)


def _is_same_file(session: Session, now: CellMeasurement, baseline: Baseline) -> bool:
    """Return whether a file has a baseline's tensors and settings, and gives its chunks' tokens.

    Another pre-tokenizer or vocabulary changes some chunks alone, perhaps none of the first ones.
    """
    if dict(baseline.tensors_scored) != now.record.tensors:
        return False
    if baseline.metadata not in (None, now.record.metadata):
        return False
    if baseline.perplexity is None:
        return True
    chunks = baseline.perplexity.chunks
    return session.artifacts.chunk_plan(now.cell).gives(
        session.artifacts.file(now.cell).header,
        now.cell.engine.identity().library_sha256,
        dict(zip(chunks.index, chunks.token_ids, strict=True)),
    )


def _judge(
    seen: Observation,
    before: Before,
    asked: Asked,
    source: BaselineSource,
    look: stats.Look,
    *,
    is_final: bool,
) -> Verdict:
    """Judge all that was asked, and conclude."""
    judgements = [
        judgement
        for metric, limits in asked.limits
        for judgement in judge_metric(metric, seen, limits, before.baseline, look)
    ]
    judgements += judge_absent(asked.absent, asked.by_name)
    judgements += before.judgements
    if before.earlier is not None:
        for metric, limits in asked.limits:
            judgements += judge_drift(metric, seen, limits, before.earlier, look)
    judgements += source.judge_apart(seen, asked)
    verdict = conclude(judgements, seen, before.baseline, is_final=is_final)
    if not judgements and (asked.absent or (asked.by_name and seen.cell.is_reference)):
        verdict = replace(verdict, reason=why_nothing(asked.absent))
    unstored = [item for item in judgements if item.verdict is VerdictKind.MEASURED]
    metrics = {item.metric for item in unstored}
    is_compared = any(
        item.against is Against.BASELINE and item.metric not in metrics for item in judgements
    )
    if verdict.kind is VerdictKind.PASS and unstored and not is_compared:
        # Within the limits, but the baseline that was asked for is not stored yet.
        reason = "; ".join(dict.fromkeys(str(item.reason) for item in unstored))
        return replace(verdict, kind=VerdictKind.MEASURED, reason=reason)
    return verdict


_OF_COMPARISONS = frozenset({Against.BASELINE, Against.ANCHOR, Against.REFERENCE})


def _is_decided(verdict: Verdict) -> bool:
    """Return whether a further look could change nothing."""
    compared = any(item.against in _OF_COMPARISONS for item in verdict.judgements)
    return compared and verdict.kind is not VerdictKind.INCONCLUSIVE


def _rest_may_differ(
    session: Session, now: CellMeasurement, seen: Observation, before: Before, verdict: Verdict
) -> bool:
    """Return whether another file repeats the baseline's values only where it was looked at.

    A damaged row of the embedding changes the chunks that have its token alone. So what is green
    of few chunks goes on through those that the baseline has.
    """
    baseline = before.baseline
    if baseline is None or not verdict.kind.is_green or not len(seen.paired(baseline)):
        return False
    change = seen.paired(baseline).nll()
    is_little = 2 * change.chunks_differing < change.chunks
    return is_little and not _is_same_file(session, now, baseline)


def _candidate(now: CellMeasurement, before: Before) -> Baseline | None:
    scored = now.record.chunks
    if now.cell.is_shape or (
        now.perplexity is not None and scored.is_finite and math.isfinite(scored.perplexity)
    ):
        return make_baseline(now.record, before.baseline or before.earlier)
    return None
