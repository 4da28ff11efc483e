"""How far the experts' weights of one file are from those of another, expert by expert.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pytest_quantgate.engines.messages import (
    CompareExperts,
    ExpertErrors,
    ExpertMatrix,
    ExpertsCompared,
    Message,
    Progress,
    TensorPlace,
)
from pytest_quantgate.engines.worker.loading import library_folder
from pytest_quantgate.engines.worker.native import NativeCodecs
from pytest_quantgate.engines.worker.threads import Threads

_LIKENESS_ROWS = 4
"""Rows of each expert by which its counterpart in the other file is found."""


class _Slices:
    """The experts of one tensor."""

    def __init__(self, codecs: NativeCodecs, place: TensorPlace, matrix: ExpertMatrix) -> None:
        self._codecs = codecs
        self._type = place.type_name
        shape = (matrix.n_experts, matrix.n_rows, place.row_bytes)
        self._data = np.memmap(
            place.path, dtype=np.uint8, mode="r", offset=place.offset_bytes, shape=shape
        )

    def rows(self, expert: int, wanted: np.ndarray) -> np.ndarray:
        """Return some rows of an expert, float32 of shape (n, columns)."""
        data = np.ascontiguousarray(self._data[expert, wanted])
        if self._type == "F32":
            return data.view(np.float32)
        if self._type == "F16":
            return data.view(np.float16).astype(np.float32)
        if self._type == "BF16":
            return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return self._codecs.dequantize(self._type, data)


def compare_experts(request: CompareExperts, send: Callable[[Message], None]) -> ExpertsCompared:
    """Compare each matrix of experts, many at a time; the rows keep the request's order."""
    codecs = NativeCodecs(library_folder())
    matrices = request.matrices
    rows: dict[int, ExpertErrors] = {}

    def compare(number: int) -> None:
        rows[number] = _compare(codecs, matrices[number], request.max_rows)
        send(Progress(what="experts", done=len(rows), total=len(matrices)))

    threads = Threads()
    try:
        threads.each(compare, range(len(matrices)))
    finally:
        threads.close()
    return ExpertsCompared(rows=tuple(rows[number] for number in range(len(matrices))))


def _compare(codecs: NativeCodecs, matrix: ExpertMatrix, max_rows: int) -> ExpertErrors:
    n_rows, experts = matrix.n_rows, matrix.n_experts
    before = _Slices(codecs, matrix.reference, matrix)
    after = _Slices(codecs, matrix.own, matrix)
    picked = np.unique(np.linspace(0, n_rows - 1, min(n_rows, max_rows)).astype(int))
    columns = np.frombuffer(matrix.importance, dtype=np.float32).reshape(experts, -1)
    counterpart = _counterparts(before, after, picked[:_LIKENESS_ROWS], experts)
    errors, weighted = np.empty(experts), np.empty(experts)
    scratch: np.ndarray | None = None
    for expert, other in enumerate(counterpart.tolist()):
        weights = before.rows(other, picked)
        off = weights - after.rows(expert, picked)
        if scratch is None:
            scratch = np.empty(off.shape, dtype=np.float64)
        squares = [
            np.square(item, dtype=np.float64, out=scratch).sum(axis=0) for item in (off, weights)
        ]
        errors[expert] = _relative_rms(*squares)
        if columns.size:
            weighted[expert] = _relative_rms(*(square * columns[other] for square in squares))
    return ExpertErrors(
        name=matrix.name,
        relative_rms=errors.tobytes(),
        weighted=weighted.tobytes() if columns.size else b"",
        counterpart=counterpart.tobytes(),
    )


def _relative_rms(off: np.ndarray, weights: np.ndarray) -> float:
    """``√(Σ (w_ij − q_ij)² / Σ w_ij²)``, from the sums of squares of each column."""
    above, below = float(off.sum()), float(weights.sum())
    return float(np.sqrt(above / below)) if below else float(above != 0)


def _counterparts(before: _Slices, after: _Slices, picked: np.ndarray, experts: int) -> np.ndarray:
    """Return for each expert of ``after`` the one of ``before`` that it is nearest to, int16.

    An expert stays itself unless another one is nearer by half: two that are alike are no
    exchange.
    """
    old = np.stack([before.rows(expert, picked).ravel() for expert in range(experts)])
    new = np.stack([after.rows(expert, picked).ravel() for expert in range(experts)])
    own = np.arange(experts, dtype=np.int16)
    squares = (
        np.square(new).sum(axis=1)[:, None] - 2 * (new @ old.T) + np.square(old).sum(axis=1)[None]
    )
    nearest = squares.argmin(axis=1).astype(np.int16)
    is_nearer = squares[own, nearest] < 0.25 * squares[own, own]
    return np.where(is_nearer, nearest, own).astype(np.int16)
