"""A cell's way through the gate: measure up to a look, judge, go on until it is decided."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_quantgate.artifacts.files import CellFile
from pytest_quantgate.config.limits import profile_limits
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.errors import CellError, CellUnavailable, CellUnsupported
from pytest_quantgate.gate.acceptance import made_by, make_baseline
from pytest_quantgate.gate.judge import (
    JUDGES,
    OF_SHAPES,
    WITHOUT_BASELINE,
    conclude,
    declared_looks,
)
from pytest_quantgate.gate.judges.absent import judge_absent, notes_of_absent, why_nothing
from pytest_quantgate.gate.judges.speed import judge_floors
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gate.old_engine import (
    OldSide,
    measure_crossed,
    measure_old,
    measured_cause,
    needs_text,
)
from pytest_quantgate.gate.recording import cell_record, failed_record, verdict_of
from pytest_quantgate.gguf.tensor_changes import pack_tensors
from pytest_quantgate.matrix.cells import NO_TEXT, Cell
from pytest_quantgate.matrix.run import Run
from pytest_quantgate.metrics.divergence import measure_divergence
from pytest_quantgate.metrics.registry import CELL_METRICS, measure_once, notes_of
from pytest_quantgate.metrics.scoring import measure_perplexity
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.measurements.absent import Absent
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement, token_changes
from pytest_quantgate.results.measurements.size import SizeMeasurement
from pytest_quantgate.results.record import CellRecord
from pytest_quantgate.results.verdicts import Judgement, Verdict, VerdictKind

_NEEDS_BASELINE = ("_vs_baseline", "_vs_anchor", "_vs_same_hardware", "_tokens_per_s_min")
"""How the names of limits end that need a baseline; a floor needs to know its hardware."""

NOT_STORED_YET = "measured; no baseline is stored yet"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a test asks of a cell's metric; ``limits`` None asks for all that apply by default."""

    metric: str
    limits: Limits | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A cell's record, and the baseline that would accept what was measured.

    ``candidate`` is None where nothing acceptable was measured; ``measured`` has the metrics
    that are measured once, by name; ``others`` are the old engine's cell and the crossed ones.
    """

    record: CellRecord
    verdict: Verdict
    candidate: Baseline | None
    measured: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[CellRecord, ...] = ()


def answer(
    run: Run,
    cell: Cell,
    questions: Sequence[Question],
    *,
    full: bool = False,
    measured: Mapping[str, Any] | None = None,
) -> Answer:
    """Measure and judge a cell; every error of the cell becomes its verdict.

    Args:
        run: the run.
        cell: which cell.
        questions: what is asked; several of one metric are judged one after the other.
        full: score the text up to the whole budget, whatever is asked and a look decides.
        measured: metrics that were measured already, by name.

    """
    started = time.perf_counter()
    run.emit("cell", cell)
    try:
        result = _ask(run, cell, questions, full=full, measured=measured or {})
    except CellError as error:
        result = failure(run, cell, error, questions)
    verdict = result.verdict
    record = replace(
        result.record,
        verdict=verdict.kind.value,
        reason=verdict.reason,
        cause=verdict.cause,
        judgements=verdict.judgements,
        seconds_s=time.perf_counter() - started,
    )
    run.emit("done", cell, verdict=verdict.kind.value)
    return replace(result, record=record)


def failure(run: Run, cell: Cell, error: CellError, questions: Sequence[Question]) -> Answer:
    """Turn an error of a cell into its verdict and record.

    Where an old engine is compared with, it is said whether that one can.
    """
    record = failed_record(run, cell, error)
    verdict = Verdict(kind=record.kind, reason=record.reason)
    failed = Answer(record=record, verdict=verdict, candidate=None)
    old_cell = run.old_cell(cell)
    if old_cell is None or verdict.kind is VerdictKind.UNAVAILABLE:
        return failed
    names = {question.metric for question in questions}
    others: tuple[CellRecord, ...] = ()
    try:
        n_chunks = run.looks(cell)[-1] if needs_text(cell, names) else None
        old = measure_old(run, old_cell, n_chunks, names, {})
    except CellError as error:
        if isinstance(error, CellUnsupported):
            run.without_old[cell.id] = error  # then a refusal of both is no fault of the new one
        told, others = f"nor can the old engine: {error}", (failed_record(run, old_cell, error),)
    else:
        told, others = "the old engine can", (old.record(run),)
    reason = f"{verdict.reason}; {told}"
    return replace(
        failed,
        record=replace(record, reason=reason),
        verdict=replace(verdict, reason=reason),
        others=others,
    )


def _ask(
    run: Run,
    cell: Cell,
    questions: Sequence[Question],
    *,
    full: bool,
    measured: Mapping[str, Any],
) -> Answer:
    run.device(cell)  # one that is not there is told before anything is made
    is_shape = run.model(cell.model).shape is not None
    absent: dict[str, Absent] = {}
    if is_shape:
        questions, absent = _questions_of_shape(run, cell, questions)
    file, size = run.described_file(cell), run.size(cell)
    found = run.baseline(cell)
    asked = [(question, _limits(run, cell, question)) for question in questions]
    names = dict.fromkeys(question.metric for question in questions)
    by_name = {question.metric for question in questions if question.limits is not None}
    wanted_old = run.old_cell(cell)
    unable = _why_old_cannot(run, cell)
    found_once = {name: measure_once(run, name, cell) for name in names if name in CELL_METRICS}
    absent |= {name: item for name, item in found_once.items() if isinstance(item, Absent)}
    measured = {
        **{name: value for name, value in found_once.items() if name not in absent},
        **measured,
    }
    by_chunk = not is_shape and (full or needs_text(cell, names))
    looks = run.looks(cell) if by_chunk else (1,)
    reference_cell = run.reference_cell(cell)
    reference_bytes = None
    if reference_cell != cell and any(limits.size_vs_reference is not None for _, limits in asked):
        reference_bytes = run.described_file(reference_cell).header.n_bytes
    verdict = Verdict(kind=VerdictKind.MEASURED, reason="measured")
    perplexity = reference = old = None
    for chunks, look in zip(looks, declared_looks(looks), strict=True):
        if by_chunk:
            perplexity = measure_perplexity(run, cell, chunks)
            reference = (
                None if reference_cell == cell else measure_perplexity(run, reference_cell, chunks)
            )
        old_cell = run.old_cell(cell)
        if old_cell is not None:
            try:
                old = measure_old(run, old_cell, chunks if by_chunk else None, names, measured)
            except CellError as error:
                old, unable = None, _set_old_aside(run, cell, error)
        baseline = found.baseline if old is None else old.baseline
        seen = _observe(run, cell, file, size, perplexity, reference, baseline, old)
        seen = replace(seen, measured=measured, reference_file_bytes=reference_bytes)
        judgements: list[Judgement] = []
        for question, limits in asked:
            judgements += JUDGES[question.metric](seen, limits, baseline, look)
        judgements += judge_absent(absent, by_name)
        if run.settings.profile.against is None:
            judgements += _missing_baseline(run, cell, asked, found.problem, baseline)
        else:
            judgements = [_of_old_engine(item) for item in judgements]
            judgements += [] if unable is None else [unable]
            stored = run.store.find(run.key(cell)).baseline
            for question, limits in asked:
                if question.metric == "speed":
                    judgements += judge_floors(seen, limits, stored)
        verdict = conclude(judgements, seen, baseline)
        if not judgements and (absent or (by_name and reference_cell == cell)):
            verdict = replace(verdict, reason=why_nothing(absent))
        unstored = [item.reason for item in judgements if item.verdict is VerdictKind.MEASURED]
        if verdict.kind is VerdictKind.PASS and unstored:
            # Within the limits, but the baseline that was asked for is not stored yet.
            reason = "; ".join(dict.fromkeys(unstored))
            verdict = replace(verdict, kind=VerdictKind.MEASURED, reason=reason)
        compared = any(item.against in {"baseline", "anchor", "reference"} for item in judgements)
        undecided = verdict.kind is VerdictKind.INCONCLUSIVE or not compared
        if not full and not undecided:
            break
    candidate = None
    if is_shape or (
        perplexity is not None
        and perplexity.chunks.is_finite
        and math.isfinite(perplexity.perplexity)
    ):
        candidate = make_baseline(
            run, cell, file, size, perplexity, reference, found.baseline, measured
        )
    record = cell_record(run, cell, file, size, perplexity, reference)
    notes = (*record.notes, *notes_of(measured), *notes_of_absent(absent))
    record = replace(record, measured=measured, notes=notes)
    others: tuple[CellRecord, ...] = ()
    if old is not None:
        crossed = measure_crossed(run, cell, old, file, chunks if by_chunk else None)
        others = (old.record(run), *(item.record for item in crossed))
        record = replace(record, notes=(*record.notes, *old.notes))
        if crossed and verdict.cause is not None:
            verdict = replace(verdict, cause=measured_cause(verdict.cause, old, crossed))
    elif wanted_old is not None:
        others = (failed_record(run, wanted_old, run.without_old[cell.id]),)
    return Answer(
        record=record, verdict=verdict, candidate=candidate, measured=measured, others=others
    )


def _why_old_cannot(run: Run, cell: Cell) -> Judgement | None:
    """Make the old engine's file; say why there is none, and leave the old engine out then."""
    known = run.without_old.get(cell.id)
    if known is not None:
        return _set_old_aside(run, cell, known)
    old_cell = run.old_cell(cell)
    if old_cell is None:
        return None
    try:
        run.device(old_cell)
        run.described_file(old_cell)
    except CellError as error:
        return _set_old_aside(run, cell, error)
    return None


def _set_old_aside(run: Run, cell: Cell, error: CellError) -> Judgement:
    """Go on without the old engine in a cell that it cannot measure: the new one can.

    Raises:
        CellUnavailable: the old engine is not there at all.

    """
    if isinstance(error, CellUnavailable):
        raise CellUnavailable(f"the old engine: {error}") from error
    run.without_old[cell.id] = error
    return Judgement(
        metric="support",
        against="baseline",
        verdict=VerdictKind.IMPROVED,
        reason=f"new: the old engine could not ({verdict_of(error).value}: {error})",
    )


def _of_old_engine(judgement: Judgement) -> Judgement:
    """Name what stood for the baseline."""
    return replace(judgement, reason=judgement.reason.replace("the baseline", "the old engine"))


def _questions_of_shape(
    run: Run, cell: Cell, questions: Sequence[Question]
) -> tuple[tuple[Question, ...], dict[str, Absent]]:
    """Leave out what the profile would ask of a model with weights.

    Where nothing is left, what was left out says so.

    Raises:
        CellUnsupported: a limit of quality was asked for by name.

    """
    if any(item.metric not in OF_SHAPES and item.limits is not None for item in questions):
        run.check_has_quality(cell.model)
    kept = tuple(item for item in questions if item.metric in OF_SHAPES)
    reason = f"model {cell.model!r} is a shape, which has size and speed and no quality"
    left_out = {} if kept else {item.metric: Absent(reason=reason) for item in questions}
    return kept, left_out


def _limits(run: Run, cell: Cell, question: Question) -> Limits:
    """Return the limits of a question: its own, or the profile's."""
    return (
        profile_limits(run.settings.limits, cell.format)
        if question.limits is None
        else question.limits
    )


def _missing_baseline(
    run: Run,
    cell: Cell,
    asked: Sequence[tuple[Question, Limits]],
    problem: str | None,
    baseline: Baseline | None,
) -> list[Judgement]:
    wanted = any(
        name.endswith(_NEEDS_BASELINE) and getattr(limits, name) is not None
        for question, limits in asked
        if question.metric not in WITHOUT_BASELINE
        for name in Limits.model_fields
    )
    if baseline is not None or not wanted:
        return []
    repeated = run.settings.overrides.command
    command = f'{repeated} -k "{cell.id}" --snapshot-update --quant-reason "WHY"'
    if problem is not None:
        return [_no_baseline(VerdictKind.NO_BASELINE, f"{problem}; store it anew: {command}")]
    if not run.gated:
        return [_no_baseline(VerdictKind.MEASURED, NOT_STORED_YET)]
    unlike = [run.key(cell).settings_unlike(stored) for stored in run.keys_before(cell)]
    if unlike:
        nearest = min(unlike, key=len)
        reason = (
            f"the stored baseline is of other settings: {'; '.join(nearest)}; set them back, or"
            f" store one of these: {command}"
        )
        return [_no_baseline(VerdictKind.NOT_COMPARABLE, reason)]
    return [_no_baseline(VerdictKind.NO_BASELINE, f"no baseline is stored; store one: {command}")]


def _no_baseline(kind: VerdictKind, reason: str) -> Judgement:
    # Not "against the baseline": there was nothing to compare with.
    return Judgement(metric="perplexity", against="nothing", verdict=kind, reason=reason)


def _observe(
    run: Run,
    cell: Cell,
    file: CellFile,
    size: SizeMeasurement,
    perplexity: PerplexityMeasurement | None,
    reference: PerplexityMeasurement | None,
    baseline: Baseline | None,
    old: OldSide | None,
) -> Observation:
    text = None if cell.text == NO_TEXT else run.text(cell.text)
    changes = divergence = None
    if perplexity is not None and reference is not None:
        divergence = measure_divergence(perplexity, reference)
    if perplexity is not None and old is not None and old.perplexity is not None:
        changes = token_changes(perplexity, old.perplexity)
    elif perplexity is not None and baseline is not None and baseline.perplexity is not None:
        kept = run.measurements.tokens(baseline.perplexity.per_token_sha256)
        if kept is not None:
            changes = token_changes(perplexity, kept)
    return Observation(
        perplexity=perplexity,
        reference=reference,
        divergence=divergence,
        size=size,
        tensors=file.tensors,
        metadata=file.header.settings(),
        made_by=made_by(run, cell, file),
        source_sha256=file.source_sha256,
        text_sha256=text.sha256 if text is not None else "",
        text_sha256_with_lf=text.sha256_with_lf if text is not None else "",
        quantizer_cpu=file.quantizer_cpu,
        same_computation=baseline is not None and _same_computation(run, cell, file, baseline),
        tokens_changed=changes,
        reference_baseline=_reference_baseline(run, cell, reference, old),
    )


def _reference_baseline(
    run: Run, cell: Cell, reference: PerplexityMeasurement | None, old: OldSide | None
) -> Baseline | None:
    if old is not None:
        return old.reference_baseline
    return None if reference is None else run.baseline(run.reference_cell(cell)).baseline


def _same_computation(run: Run, cell: Cell, file: CellFile, baseline: Baseline) -> bool:
    """Tell whether a CPU is bound to give the baseline's values on every chunk."""
    then, now = baseline.made_by, made_by(run, cell, file)
    return (
        run.placement(cell).is_cpu
        and all(
            getattr(then, name) == getattr(now, name)
            for name in ("library_sha256", "system_info", "cpu", "n_batch", "n_ubatch")
        )
        and dict(baseline.tensors_scored) == pack_tensors(file.tensors)
        # Another pre-tokenizer changes some chunks alone, perhaps none of the first ones.
        and baseline.metadata in (None, file.header.settings())
    )
