"""A cell's way through the gate: measure up to a look, judge, go on until it is decided."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_quantgate import statistics
from pytest_quantgate.acceptance import made_by, make_baseline
from pytest_quantgate.artifacts.files import CellFile
from pytest_quantgate.baselines.schema import (
    Baseline,
)
from pytest_quantgate.baselines.tensors import pack_tensors
from pytest_quantgate.config import ALL_FORMATS
from pytest_quantgate.errors import (
    CellCrashed,
    CellError,
    CellInvalid,
    CellTimeout,
    CellUnavailable,
    CellUnsupported,
)
from pytest_quantgate.judge import (
    BY_CHUNK,
    JUDGES,
    OF_SHAPES,
    WITHOUT_BASELINE,
    conclude,
    declared_looks,
)
from pytest_quantgate.limits import default_limits, merge_limits
from pytest_quantgate.matrix import NO_TEXT, Cell
from pytest_quantgate.metrics.divergence import measure_divergence
from pytest_quantgate.metrics.perplexity import (
    PerplexityMeasurement,
    common_chunks,
    token_changes,
)
from pytest_quantgate.metrics.scoring import measure_perplexity
from pytest_quantgate.metrics.size import SizeMeasurement
from pytest_quantgate.metrics.table import CELL_METRICS, measure_once, notes_of
from pytest_quantgate.observation import Observation
from pytest_quantgate.report.record import CellRecord, Difference
from pytest_quantgate.run import Run
from pytest_quantgate.tables import Limits
from pytest_quantgate.verdicts import Judgement, Verdict, VerdictKind

FALLBACK_WARNING = 0.25
"""Share of a file's bytes in fallback types above which the cell says so."""

_NEEDS_BASELINE = ("_vs_baseline", "_vs_anchor", "_vs_same_hardware", "_tokens_per_s_min")
"""How the names of limits end that need a baseline; a floor needs to know its hardware."""

NOT_STORED_YET = "measured; no baseline is stored yet"

_VERDICT_OF_ERROR: tuple[tuple[type[CellError], VerdictKind], ...] = (
    (CellTimeout, VerdictKind.TIMEOUT),
    (CellUnavailable, VerdictKind.UNAVAILABLE),
    (CellUnsupported, VerdictKind.UNSUPPORTED),
    (CellInvalid, VerdictKind.INVALID),
    (CellCrashed, VerdictKind.CRASHED),
    (CellError, VerdictKind.CRASHED),
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a test asks of a cell's metric; ``limits`` None asks for all that apply by default."""

    metric: str
    limits: Limits | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A cell's record, and the baseline that would accept what was measured.

    ``candidate`` is None where nothing acceptable was measured; ``measured`` has the metrics
    that are measured once, by name.
    """

    record: CellRecord
    verdict: Verdict
    candidate: Baseline | None
    measured: Mapping[str, Any] = field(default_factory=dict)


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
        result = failure(run, cell, error)
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


def failure(run: Run, cell: Cell, error: CellError) -> Answer:
    """Turn an error of a cell into its verdict and record."""
    kind = next(kind for type_, kind in _VERDICT_OF_ERROR if isinstance(error, type_))
    verdict = Verdict(kind=kind, reason=str(error))
    record = replace(_empty_record(run, cell), verdict=kind.value, reason=verdict.reason)
    return Answer(record=record, verdict=verdict, candidate=None)


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
    if is_shape:
        questions = _questions_of_shape(run, cell, questions)
    file, size = run.described_file(cell), run.size(cell)
    found = run.baseline(cell)
    asked = [(question, _limits(run, cell, question)) for question in questions]
    names = dict.fromkeys(question.metric for question in questions)
    found_once = {name: measure_once(run, name, cell) for name in names if name in CELL_METRICS}
    measured = {
        **{name: value for name, value in found_once.items() if value is not None},
        **measured,
    }
    needs_text = not is_shape and (full or not BY_CHUNK.isdisjoint(names))
    looks = run.looks(cell) if needs_text else (1,)
    reference_cell = run.reference_cell(cell)
    reference_bytes = None
    if reference_cell != cell and any(limits.size_vs_reference is not None for _, limits in asked):
        reference_bytes = run.described_file(reference_cell).header.n_bytes
    verdict = Verdict(kind=VerdictKind.MEASURED, reason="measured")
    perplexity = reference = None
    for chunks, look in zip(looks, declared_looks(looks), strict=True):
        if needs_text:
            perplexity = measure_perplexity(run, cell, chunks)
            reference = (
                None if reference_cell == cell else measure_perplexity(run, reference_cell, chunks)
            )
        seen = _observe(run, cell, file, size, perplexity, reference, found.baseline)
        seen = replace(seen, measured=measured, reference_file_bytes=reference_bytes)
        judgements: list[Judgement] = []
        for question, limits in asked:
            judgements += JUDGES[question.metric](seen, limits, found.baseline, look)
        judgements += _missing_baseline(run, cell, asked, found.problem, found.baseline)
        verdict = conclude(judgements, seen, found.baseline)
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
        perplexity is not None and perplexity.is_finite and math.isfinite(perplexity.perplexity)
    ):
        candidate = make_baseline(
            run, cell, file, size, perplexity, reference, found.baseline, measured
        )
    record = _record(run, cell, file, size, perplexity, reference)
    record = replace(record, measured=measured, notes=(*record.notes, *notes_of(measured)))
    return Answer(record=record, verdict=verdict, candidate=candidate, measured=measured)


def _questions_of_shape(
    run: Run, cell: Cell, questions: Sequence[Question]
) -> tuple[Question, ...]:
    """Leave out what the profile would ask of a model with weights.

    Raises:
        CellUnsupported: a limit of quality was asked for by name.

    """
    if any(item.metric not in OF_SHAPES and item.limits is not None for item in questions):
        run.check_has_quality(cell.model)
    return tuple(item for item in questions if item.metric in OF_SHAPES)


def _limits(run: Run, cell: Cell, question: Question) -> Limits:
    """Return the limits of a question: its own, or the profile's."""
    return _profile_limits(run, cell) if question.limits is None else question.limits


def _profile_limits(run: Run, cell: Cell) -> Limits:
    """Return the configured limits of a cell over the defaults."""
    named = run.settings.limits
    configured = [named[name] for name in (ALL_FORMATS, cell.format.name) if name in named]
    return merge_limits(default_limits(cell.format), *configured)


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
) -> Observation:
    text = None if cell.text == NO_TEXT else run.text(cell.text)
    changes = divergence = None
    if perplexity is not None and reference is not None:
        divergence = measure_divergence(perplexity, reference)
    if perplexity is not None and baseline is not None and baseline.perplexity is not None:
        kept = run.measurements.tokens(baseline.perplexity.per_token_sha256)
        if kept is not None:
            changes = token_changes(perplexity, kept)
    return Observation(
        format=cell.format,
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
        reference_baseline=None
        if reference is None
        else run.baseline(run.reference_cell(cell)).baseline,
    )


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


def _empty_record(run: Run, cell: Cell) -> CellRecord:
    model = run.find_model(cell.model)
    return CellRecord(
        id=cell.id,
        model=cell.model,
        format=cell.format.name,
        imatrix=cell.imatrix,
        device=cell.device,
        engine=cell.engine,
        text=cell.text,
        is_reference=run.reference_cell(cell) == cell,
        reference=run.reference_cell(cell).format.name,
        is_requantized=model is not None and model.is_requantized,
        is_miniature=model is not None and model.is_miniature,
        verdict=VerdictKind.MEASURED.value,
        reason="",
        key=run.key(cell),
        quantizer=cell.engine,
        text_sha256="" if cell.text == NO_TEXT else run.text(cell.text).sha256,
        limits=_profile_limits(run, cell).model_dump(exclude_none=True),
    )


def _notes(cell: Cell, size: SizeMeasurement) -> tuple[str, ...]:
    notes = []
    if size.no_effect:
        types = ", ".join(kind for kind in size.bytes_by_type if kind != "F32")
        notes.append(
            f"had no effect: no tensor is {cell.format.file_type.main_type},"
            f" the weights are {types}"
        )
    if size.fallback_fraction > FALLBACK_WARNING:
        notes.append(
            f"{100 * size.fallback_fraction:.0f} % of the bytes fell back to other types: rows"
            f" are no multiple of {cell.format.file_type.block_elements}"
        )
    return tuple(notes)


def _record(
    run: Run,
    cell: Cell,
    file: CellFile,
    size: SizeMeasurement,
    perplexity: PerplexityMeasurement | None,
    reference: PerplexityMeasurement | None,
) -> CellRecord:
    of_file = replace(
        _empty_record(run, cell),
        notes=_notes(cell, size),
        file_bytes=size.file_bytes,
        bits_per_weight=size.bits_per_weight,
        bytes_by_type=size.bytes_by_type,
        bytes_by_part=size.bytes_by_part,
        tensors_by_type=size.tensors_by_type,
        fallbacks=size.fallbacks,
        fallback_fraction=size.fallback_fraction,
        file_sha256=file.sha256,
        tensor_data_sha256=file.tensor_data_sha256,
        source_sha256=file.source_sha256,
        made_by=made_by(run, cell, file),
        quantizer="" if file.quantizer_sha256 is None else cell.engine,  # the source, or a user's
        quantizer_cpu=file.quantizer_cpu,
        tensors=pack_tensors(file.tensors),
        metadata=file.header.settings(),
    )
    if perplexity is None:
        return of_file
    by_domain: dict[str, float] = {}
    for domain in dict.fromkeys(chunk.domain for chunk in perplexity.chunks):
        if domain is not None:
            part = [chunk for chunk in perplexity.chunks if chunk.domain == domain]
            nats = sum(c.nll_sum_nats for c in part) / sum(c.tokens for c in part)
            by_domain[domain] = statistics.ppl_change(nats) + 1
    return replace(
        of_file,
        ppl=perplexity.perplexity,
        chunks=len(perplexity.chunks),
        tokens=perplexity.n_tokens,
        chunk_indices=tuple(chunk.index for chunk in perplexity.chunks),
        chunk_nll_sum_nats=tuple(chunk.nll_sum_nats for chunk in perplexity.chunks),
        chunk_tokens=tuple(chunk.tokens for chunk in perplexity.chunks),
        chunk_documents=tuple(chunk.document for chunk in perplexity.chunks),
        chunk_token_ids=tuple(chunk.token_ids_sha256[:16] for chunk in perplexity.chunks),
        chunk_kld_sum_nats=_divergence_sums(perplexity),
        is_exact=all(chunk.is_exact for chunk in perplexity.chunks),
        n_chunks_in_text=perplexity.n_chunks_in_text,
        ppl_by_domain=by_domain,
        ppl_vs_reference=None if reference is None else difference(perplexity, reference),
        divergence=None if reference is None else measure_divergence(perplexity, reference),
    )


def _divergence_sums(perplexity: PerplexityMeasurement) -> tuple[float, ...]:
    """Return each chunk's divergence from the reference; nothing where one has none."""
    sums = [chunk.kld_sum_nats for chunk in perplexity.chunks]
    known = tuple(value for value in sums if value is not None)
    return known if len(known) == len(sums) else ()


def difference(seen: PerplexityMeasurement, other: PerplexityMeasurement) -> Difference:
    """Compare two measurements on their common chunks; the interval is of 95 %."""
    mine, theirs = common_chunks(seen, other)
    chunks = [seen.chunks[i] for i in mine]
    estimate = statistics.compare_paired(
        [other.chunks[i].nll_sum_nats for i in theirs],
        [chunk.nll_sum_nats for chunk in chunks],
        [chunk.tokens for chunk in chunks],
        [chunk.document for chunk in chunks],
        [chunk.index for chunk in chunks],
    )
    low, high = statistics.ppl_ratio_interval(estimate)
    changes = token_changes(seen, other)
    return Difference(
        change=statistics.ppl_change(estimate.mean),
        low=low,
        high=high,
        chunks=estimate.chunks,
        clusters=estimate.clusters,
        tokens=estimate.tokens,
        tokens_changed=None if changes is None else changes.changed,
    )
