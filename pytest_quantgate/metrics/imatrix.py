"""The importance matrix of a cell: how much of the model its text reached, expert by expert."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_quantgate.artifacts.imatrix import Imatrix
from pytest_quantgate.gguf.reader import GgufFile
from pytest_quantgate.matrix.cells import format_imatrices
from pytest_quantgate.results.measurements.absent import Absent
from pytest_quantgate.results.measurements.imatrix import ImatrixMeasurement, LayerCoverage

if TYPE_CHECKING:
    from pytest_quantgate.matrix.resolved import ResolvedCell
    from pytest_quantgate.matrix.session import Session


_EXPERTS = re.compile(r"^blk\.(\d+)\..*_exps\.weight$")


def measure_imatrix(session: Session, cell: ResolvedCell) -> ImatrixMeasurement | Absent:
    """Tell what a cell's matrix covers, where it has one.

    Raises:
        CellError: the matrix could not be collected or used.

    """
    imatrix = session.artifacts.imatrix(cell)
    if imatrix is not None:
        return coverage(imatrix, session.artifacts.file(cell).header)
    if cell.format.is_full_precision:
        reason = f"{cell.format.name} is full precision, made without an importance matrix"
        return Absent(reason=reason, is_natural=True)
    if any(format_imatrices(session.settings, cell.cell.model, cell.format)):
        return Absent(reason="this is the cell without an importance matrix", is_natural=True)
    reason = "the cell has no importance matrix; add one, as --quant-imatrix calibration"
    return Absent(reason=reason, is_noted=False)


def coverage(imatrix: Imatrix, file: GgufFile) -> ImatrixMeasurement:
    """Tell what a matrix covers of a quantized file."""
    by_layer: dict[int, list[tuple[int, ...]]] = {}
    for tensor in file.tensors:
        match = _EXPERTS.match(tensor.name)
        entry = imatrix.entries.get(tensor.name)
        if match is not None and entry is not None and len(tensor.shape) > 2:
            counts = tuple(int(count) for count in entry.counts)
            whole = len(counts) == tensor.shape[2]
            by_layer.setdefault(int(match[1]), []).append(counts if whole else ())
    layers = tuple(
        LayerCoverage(
            layer=layer,
            tokens=tuple(map(min, zip(*counts, strict=True))) if all(counts) else (),
        )
        for layer, counts in sorted(by_layer.items())
    )
    without = tuple(
        tensor.name
        for tensor in file.tensors
        if tensor.name.startswith("blk.")
        and tensor.type.block_elements > 1
        and tensor.name not in imatrix.entries
    )
    return ImatrixMeasurement(
        imatrix=imatrix.name,
        sha256=imatrix.sha256,
        n_weights=len(imatrix.entries),
        tokens=int(max((max(entry.counts) for entry in imatrix.entries.values()), default=0)),
        layers=layers,
        without=without,
    )
