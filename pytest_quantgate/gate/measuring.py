"""A cell measured up to a look: its file, its chunks, its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_quantgate.artifacts.files import CellFile
from pytest_quantgate.gate.recording import cell_record
from pytest_quantgate.matrix.resolved import ResolvedCell
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.metrics.scoring import measure_perplexity
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement
from pytest_quantgate.results.record import CellRecord


@dataclass(frozen=True, kw_only=True)
class CellMeasurement:
    """A cell's file and what was measured of it, with its record, which is not judged yet.

    ``perplexity`` and ``reference`` are None where nothing asked for the text; ``reference`` is so
    for the reference itself.
    """

    cell: ResolvedCell
    file: CellFile
    perplexity: PerplexityMeasurement | None
    reference: PerplexityMeasurement | None
    record: CellRecord


def measure_cell(
    session: Session,
    cell: ResolvedCell,
    n_chunks: int | None,
    measured: Mapping[str, Any] | None = None,
) -> CellMeasurement:
    """Measure a cell and its reference on the first chunks; None scores nothing.

    Args:
        session: the session.
        cell: which cell.
        n_chunks: how many chunks are scored; None where nothing is asked that needs the text.
        measured: the metrics that were measured once of the cell, by name.

    Raises:
        CellError: the cell or its reference could not be measured.

    """
    session.device(cell)  # one that is not there is refused before anything is made
    file = session.artifacts.described_file(cell)
    perplexity = reference = None
    if n_chunks is not None:
        perplexity = measure_perplexity(session, cell, n_chunks)
        if not cell.is_reference:
            reference = measure_perplexity(session, session.reference(cell), n_chunks)
    return CellMeasurement(
        cell=cell,
        file=file,
        perplexity=perplexity,
        reference=reference,
        record=cell_record(session, cell, file, perplexity, reference, measured),
    )
