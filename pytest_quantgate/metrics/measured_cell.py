"""A cell as a test sees it: its names, and its figures when they are first read."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_quantgate.artifacts.files import CellFile
from pytest_quantgate.gguf.formats import Format
from pytest_quantgate.matrix.cells import Cell
from pytest_quantgate.matrix.resolved import ResolvedCell
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.metrics.registry import measure_once
from pytest_quantgate.metrics.scoring import measure_perplexity
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.measurements.memory import MemoryMeasurement
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement
from pytest_quantgate.results.measurements.routing import RoutingMeasurement
from pytest_quantgate.results.measurements.size import SizeMeasurement, measure_size
from pytest_quantgate.results.measurements.speed import SpeedMeasurement


class MeasuredCell:
    """One cell. Every property below ``path`` may raise a ``CellError``, the cell's verdict.

    Args:
        session: the run's session.
        cell: which cell.
        measure: calls a function with the session that measures the cell; None is the run's own.

    """

    def __init__(
        self,
        session: Session,
        cell: Cell,
        measure: Callable[[Callable[[Session], Any]], Any] | None = None,
    ) -> None:
        self._session = session
        self._cell = cell
        self._measure = measure or (lambda work: work(session))

    def __repr__(self) -> str:
        return f"MeasuredCell({self.id!r})"

    @property
    def id(self) -> str:
        """The cell's id, such as ``smollm2-Q4_K_M-cpu``."""
        return self._cell.id

    @property
    def model(self) -> str:
        """The model's name."""
        return self._cell.model

    @property
    def format(self) -> Format:
        """The format."""
        return self._cell.format

    @property
    def imatrix(self) -> str | None:
        """The importance matrix's name, None for none."""
        return self._cell.imatrix

    @property
    def device(self) -> str:
        """The device's name."""
        return self._cell.device

    @property
    def text(self) -> str:
        """The text's name."""
        return self._cell.text

    @property
    def baseline(self) -> Baseline | None:
        """The stored baseline, None if there is none."""
        return self._session.baseline(self._cell)

    @property
    def is_reference(self) -> bool:
        """Whether the other formats are compared with this one."""
        return self._session.matrix.reference(self._cell) == self._cell

    @cached_property
    def path(self) -> Path:
        """The GGUF file, quantized now if it is not in the cache."""
        path: Path = self._measure(lambda session: session.artifacts.file(self._in(session)).path)
        return path

    def _in(self, session: Session) -> ResolvedCell:
        return session.resolve(self._cell)

    @cached_property
    def size(self) -> SizeMeasurement:
        """Bytes, bits per weight, tensor types and fallbacks."""
        file: CellFile = self._measure(
            lambda session: session.artifacts.described_file(self._in(session))
        )
        return measure_size(file.header, self.format)

    @property
    def file_bytes(self) -> int:
        """Bytes on disk."""
        return self.size.file_bytes

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight of the tensors."""
        return self.size.bits_per_weight

    @property
    def tensor_types(self) -> dict[str, str]:
        """Each tensor's type, by name."""
        return self.size.tensor_types

    @cached_property
    def scores(self) -> PerplexityMeasurement:
        """Every chunk and token of the profile's whole budget."""

        def score(session: Session) -> PerplexityMeasurement:
            cell = self._in(session)
            session.artifacts.chunk_plan(cell)  # refuses a shape
            return measure_perplexity(session, cell, session.artifacts.looks(cell)[-1])

        scores: PerplexityMeasurement = self._measure(score)
        return scores

    def _once(self, name: str) -> Any:
        return self._measure(lambda session: measure_once(session, name, self._in(session)))

    @property
    def speed(self) -> SpeedMeasurement:
        """Prefill and decode speed, with the reference's beside it."""
        measured: SpeedMeasurement = self._once("speed")
        return measured

    @property
    def memory(self) -> MemoryMeasurement:
        """The peak of a fresh process, and the engine's buffers."""
        measured: MemoryMeasurement = self._once("memory")
        return measured

    @property
    def routing(self) -> RoutingMeasurement:
        """Where a mixture of experts sends its tokens, against the reference."""
        measured: RoutingMeasurement = self._once("routing")
        return measured

    @property
    def perplexity(self) -> float:
        """Perplexity over the profile's whole budget."""
        return self.scores.perplexity
