"""What was observed in a cell, as the judges and the search for causes see it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from pytest_quantgate.results.baseline import Baseline, MadeBy
from pytest_quantgate.results.chunk_table import ChunkPair, ChunkTable
from pytest_quantgate.results.measurements.perplexity import TokenChanges
from pytest_quantgate.results.record import CellRecord

MeasurementT = TypeVar("MeasurementT")


class Versus(StrEnum):
    """What stands as the baseline; the value stands in sentences."""

    BASELINE = "the baseline"
    OLD_ENGINE = "the old engine"
    OLD_RECORD = "the old record"


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A cell's record up to a look, measured now or read from a file, and what it is held against.

    Attributes:
        cell: what was measured of the cell; not judged yet.
        reference: the reference's chunks; None for the reference itself, or without a text.
        reference_baseline: the reference's own baseline.
        reference_file_bytes: there where a limit asks for it.
        text_sha256_with_lf: the text's hash with line ends as LF.
        same_computation: file, libraries, processor and settings are the baseline's, so that on a
            CPU equal values stay equal on every further chunk.
        tokens_changed: compared with the baseline's per-token values; None where they are gone.
        domains: the text's, by name; empty where it is one file.
        versus: what stands as the baseline.

    """

    cell: CellRecord
    reference: ChunkTable | None = None
    reference_baseline: Baseline | None = None
    reference_file_bytes: int | None = None
    text_sha256_with_lf: str = ""
    same_computation: bool = False
    tokens_changed: TokenChanges | None = None
    domains: tuple[str, ...] = ()
    versus: Versus = Versus.BASELINE

    @property
    def chunks(self) -> ChunkTable:
        """What was scored; no row where nothing asked for the text."""
        return self.cell.chunks

    @property
    def n_chunks_in_text(self) -> int:
        """Chunks in the whole text."""
        return self.cell.n_chunks_in_text or len(self.chunks)

    @property
    def file_bytes(self) -> int:
        """Bytes of the cell's file."""
        assert self.cell.file_bytes is not None
        return self.cell.file_bytes

    @property
    def made_by(self) -> MadeBy:
        """What computes now."""
        assert self.cell.made_by is not None
        return self.cell.made_by

    def paired(self, baseline: Baseline) -> ChunkPair:
        """Return the chunks that a baseline has too."""
        before = ChunkTable() if baseline.perplexity is None else baseline.perplexity.chunks
        return self.chunks.paired(before)

    def whole_of(self, baseline: Baseline | None) -> Baseline | None:
        """Return the baseline where its further chunks are bound to be those of this cell too.

        Then its figures are what scoring all of them would give.
        """
        if baseline is None or baseline.perplexity is None or not self.same_computation:
            return None
        pair = self.paired(baseline)
        is_longer = len(baseline.perplexity.chunks) > len(self.chunks) == len(pair) > 0
        is_equal = pair.before.nll_sum_nats == pair.after.nll_sum_nats
        return baseline if is_longer and is_equal and not pair.retokenized else None

    def find(self, kind: type[MeasurementT]) -> MeasurementT | None:
        """Return the measurement of a kind, None where it was not asked for."""
        return next((item for item in self.cell.measured.values() if isinstance(item, kind)), None)
