"""A cell's record, from what was measured of it."""

from __future__ import annotations

from dataclasses import replace

from pytest_quantgate import stats
from pytest_quantgate.artifacts.files import CellFile
from pytest_quantgate.artifacts.quantizers import SAMPLED_WEIGHTS
from pytest_quantgate.config.limits import profile_limits
from pytest_quantgate.errors import (
    CellCrashed,
    CellError,
    CellInvalid,
    CellTimeout,
    CellUnavailable,
    CellUnsupported,
)
from pytest_quantgate.gate.acceptance import made_by
from pytest_quantgate.gguf.tensor_changes import pack_tensors
from pytest_quantgate.matrix.cells import NO_TEXT, Cell
from pytest_quantgate.matrix.run import Run
from pytest_quantgate.metrics.divergence import measure_divergence
from pytest_quantgate.results.measurements.perplexity import (
    PerplexityMeasurement,
    common_chunks,
    token_changes,
)
from pytest_quantgate.results.measurements.size import SizeMeasurement
from pytest_quantgate.results.record import CellRecord, Difference
from pytest_quantgate.results.verdicts import VerdictKind

_VERDICT_OF_ERROR: tuple[tuple[type[CellError], VerdictKind], ...] = (
    (CellTimeout, VerdictKind.TIMEOUT),
    (CellUnavailable, VerdictKind.UNAVAILABLE),
    (CellUnsupported, VerdictKind.UNSUPPORTED),
    (CellInvalid, VerdictKind.INVALID),
    (CellCrashed, VerdictKind.CRASHED),
    (CellError, VerdictKind.CRASHED),
)

FALLBACK_WARNING = 0.25
"""Share of a file's bytes in fallback types above which the cell says so."""


def verdict_of(error: CellError) -> VerdictKind:
    """Return the verdict of a cell that ended with an error."""
    return next(kind for type_, kind in _VERDICT_OF_ERROR if isinstance(error, type_))


def failed_record(run: Run, cell: Cell, error: CellError) -> CellRecord:
    """Return the record of a cell that could not be measured."""
    kind = verdict_of(error)
    return replace(empty_record(run, cell), verdict=kind.value, reason=str(error))


def empty_record(run: Run, cell: Cell) -> CellRecord:
    """Return the record of a cell of which nothing was measured."""
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
        quantizer=cell.quantizer,
        text_sha256="" if cell.text == NO_TEXT else run.text(cell.text).sha256,
        limits=profile_limits(run.settings.limits, cell.format).model_dump(exclude_none=True),
    )


def cell_record(
    run: Run,
    cell: Cell,
    file: CellFile,
    size: SizeMeasurement,
    perplexity: PerplexityMeasurement | None,
    reference: PerplexityMeasurement | None,
) -> CellRecord:
    """Return the record of what was measured of a cell, not judged yet."""
    of_file = replace(
        empty_record(run, cell),
        notes=_notes(cell, size, file),
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
        # The source itself, or a user's file, has none.
        quantizer="" if file.quantizer_sha256 is None else cell.quantizer,
        quantizer_cpu=file.quantizer_cpu,
        file_is_shared=file.is_shared,
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
            by_domain[domain] = stats.ppl_change(nats) + 1
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
    estimate = stats.compare_paired(
        [other.chunks[i].nll_sum_nats for i in theirs],
        [chunk.nll_sum_nats for chunk in chunks],
        [chunk.tokens for chunk in chunks],
        [chunk.document for chunk in chunks],
        [chunk.index for chunk in chunks],
    )
    low, high = stats.ppl_ratio_interval(estimate)
    changes = token_changes(seen, other)
    return Difference(
        change=stats.ppl_change(estimate.mean),
        low=low,
        high=high,
        chunks=estimate.chunks,
        clusters=estimate.clusters,
        tokens=estimate.tokens,
        tokens_changed=None if changes is None else changes.changed,
    )


def _notes(cell: Cell, size: SizeMeasurement, file: CellFile) -> tuple[str, ...]:
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
    if file.is_shared:
        notes.append(
            "its quantizer was not run: the other engine's file is taken, since the types and a"
            f" sample of {SAMPLED_WEIGHTS / 1e6:.0f} million weights came out equal"
        )
    return tuple(notes)
