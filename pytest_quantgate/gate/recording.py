"""A cell's record, from what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from pytest_quantgate.artifacts.files import CellFile
from pytest_quantgate.config.limits import profile_limits
from pytest_quantgate.errors import (
    CellCrashed,
    CellError,
    CellInvalid,
    CellTimeout,
    CellUnavailable,
    CellUnsupported,
)
from pytest_quantgate.gguf.tensor_changes import pack_tensors
from pytest_quantgate.matrix.cells import NO_TEXT, Cell
from pytest_quantgate.matrix.resolved import ResolvedCell
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.metrics.divergence import measure_divergence, same_top_tokens
from pytest_quantgate.results.baseline import MadeBy
from pytest_quantgate.results.chunk_table import Shift
from pytest_quantgate.results.measurement_store import per_token_sha256
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement, token_changes
from pytest_quantgate.results.measurements.size import SizeMeasurement, measure_size
from pytest_quantgate.results.record import CellRecord
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


def failed_record(session: Session, cell: Cell, error: CellError) -> CellRecord:
    """Return the record of a cell that could not be measured."""
    kind = verdict_of(error)
    return replace(empty_record(session, cell), verdict=kind.value, reason=str(error))


def empty_record(session: Session, cell: Cell) -> CellRecord:
    """Return the record of a cell of which nothing was measured."""
    library, matrix = session.library, session.matrix
    model, reference = library.find_model(cell.model), matrix.reference(cell)
    return CellRecord(
        id=cell.id,
        model=cell.model,
        format=cell.format.name,
        imatrix=cell.imatrix,
        device=cell.device,
        engine=cell.engine,
        text=cell.text,
        n_ctx=cell.n_ctx if len(session.settings.profile.n_ctx) > 1 and cell.text else None,
        is_reference=reference == cell,
        reference=reference.format.name,
        is_requantized=model is not None and model.is_requantized,
        is_miniature=model is not None and model.is_miniature,
        verdict=VerdictKind.MEASURED.value,
        reason="",
        key=matrix.key(cell),
        quantizer=cell.quantizer,
        text_sha256="" if cell.text == NO_TEXT else library.text(cell.text).sha256,
        limits=profile_limits(session.settings.limits, cell.format).model_dump(exclude_none=True),
    )


def made_by(session: Session, cell: ResolvedCell, file: CellFile) -> MadeBy:
    """Describe what makes a measurement of a cell."""
    identity = cell.engine.identity()
    return MadeBy(
        engine=f"{identity.kind} {identity.version}",
        llama_cpp=identity.llama_cpp_version,
        library_sha256=identity.library_sha256,
        quantizer_sha256=file.quantizer_sha256,
        imatrix_sha256=file.imatrix_sha256,
        system_info=identity.system_info,
        cpu=identity.cpu_name,
        platform=identity.platform,
        n_threads=session.n_threads,
        n_batch=cell.conditions.n_batch,
        n_ubatch=cell.conditions.n_ubatch,
    )


def cell_record(
    session: Session,
    cell: ResolvedCell,
    file: CellFile,
    perplexity: PerplexityMeasurement | None,
    reference: PerplexityMeasurement | None,
    measured: Mapping[str, Any] | None = None,
) -> CellRecord:
    """Return the record of what was measured of a cell, not judged yet."""
    record = replace(_file_record(session, cell, file), measured=measured or {})
    if perplexity is None:
        return record
    chunks = perplexity.chunks
    divergence = None if reference is None else measure_divergence(perplexity, reference)
    if reference is not None:
        same = same_top_tokens(perplexity, reference)
        chunks = chunks.replace(same_top=same or chunks.same_top)
    notes = record.notes
    if perplexity.measured_s < session.started_s:
        when = datetime.fromtimestamp(perplexity.measured_s).astimezone()
        notes = (*notes, f"scored {when:%d %b, %H:%M}; --quant-fresh scores it anew")
    return replace(
        record,
        notes=notes,
        ppl=perplexity.perplexity,
        chunks=chunks,
        n_chunks_in_text=perplexity.n_chunks_in_text,
        ppl_by_domain={name: rows.perplexity for name, rows in chunks.by_domain().items()},
        ppl_vs_reference=None if reference is None else perplexity_shift(perplexity, reference),
        divergence=divergence,
        per_token_sha256=per_token_sha256(perplexity),
        reference_per_token_sha256=None if reference is None else per_token_sha256(reference),
    )


def _file_record(session: Session, cell: ResolvedCell, file: CellFile) -> CellRecord:
    """Return what a cell's file is and who made it."""
    size = measure_size(file.header, cell.format)
    return replace(
        empty_record(session, cell.cell),
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
        made_by=made_by(session, cell, file),
        # The source itself, or a user's file, has none.
        quantizer="" if file.quantizer_sha256 is None else cell.cell.quantizer,
        quantizer_cpu=file.quantizer_cpu,
        tensors=pack_tensors(file.tensors),
        metadata=file.header.settings(),
    )


def perplexity_shift(seen: PerplexityMeasurement, other: PerplexityMeasurement) -> Shift | None:
    """Compare two measurements on their common chunks."""
    changes = token_changes(seen, other)
    return seen.chunks.paired(other.chunks).shift(None if changes is None else changes.changed)


def _notes(cell: ResolvedCell, size: SizeMeasurement, file: CellFile) -> tuple[str, ...]:
    notes = []
    n_ctx, trained = cell.n_ctx, file.header.hyperparameter("context_length")
    if cell.text is not None and trained is not None and n_ctx > trained:
        notes.append(
            f"n_ctx = {n_ctx:,} is more than the {trained:,} tokens that the model was trained for:"
            " its perplexity is not what the model can do"
        )
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
