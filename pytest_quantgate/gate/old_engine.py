"""The old engine's side of a cell: it stands where a stored baseline would.

Where two engines are held against each other, the old one makes and measures every cell too.
Where their files differ, the two crossed cells (the file of one, the runtime of the other) are
measured as well, so that it is seen, and not inferred, which of the two moved a cell.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_quantgate.artifacts.files import CellFile
from pytest_quantgate.errors import CellError
from pytest_quantgate.gate.acceptance import make_baseline
from pytest_quantgate.gate.judge import BY_CHUNK
from pytest_quantgate.gate.observation import percent
from pytest_quantgate.gate.recording import cell_record, failed_record, perplexity_shift
from pytest_quantgate.matrix.cells import NO_TEXT, Cell, with_engines
from pytest_quantgate.matrix.run import Run
from pytest_quantgate.metrics.registry import measure_once
from pytest_quantgate.metrics.scoring import measure_perplexity
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.measurements.absent import Absent
from pytest_quantgate.results.measurements.memory import MemoryMeasurement
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement
from pytest_quantgate.results.measurements.size import SizeMeasurement
from pytest_quantgate.results.record import CellRecord

_PARTS = ("quantizer", "runtime kernels")
"""What an engine consists of, in the order of the crossed cells."""

_ONCE = ("routing", "memory")
"""What the old engine measures too; speed is measured of both sides at once."""


@dataclass(frozen=True, kw_only=True)
class OldSide:
    """What the old engine made and measured of a cell, up to a look."""

    cell: Cell
    file: CellFile
    size: SizeMeasurement
    perplexity: PerplexityMeasurement | None
    reference: PerplexityMeasurement | None
    measured: Mapping[str, Any]
    baseline: Baseline
    reference_baseline: Baseline | None
    notes: tuple[str, ...] = ()

    def record(self, run: Run) -> CellRecord:
        """Return the cell's record; it is judged by nobody."""
        found = cell_record(run, self.cell, self.file, self.size, self.perplexity, self.reference)
        return replace(found, measured=self.measured, notes=(*found.notes, *self.notes))


def measure_old(
    run: Run, old: Cell, n_chunks: int | None, names: Collection[str], now: Mapping[str, Any]
) -> OldSide:
    """Measure the old engine's cell as the new one's is.

    Args:
        run: the run.
        old: the old engine's cell.
        n_chunks: how many chunks are scored; None where nothing is asked that needs the text.
        names: the metrics that are asked for.
        now: what was measured once of the new engine's cell.

    Raises:
        CellError: the old engine cannot.

    """
    run.device(old)
    file, size = run.described_file(old), run.size(old)
    measured, notes = {}, []
    for name in _ONCE:
        try:
            found = measure_once(run, name, old) if name in names else None
        except CellError as error:
            # One figure that it cannot give is no reason to compare nothing.
            notes.append(f"the old engine gives no {name}: {error}")
            continue
        if found is not None and not isinstance(found, Absent):
            measured[name] = found
    perplexity = reference = reference_baseline = None
    reference_cell = run.reference_cell(old)
    if n_chunks is not None:
        perplexity = measure_perplexity(run, old, n_chunks)
        if reference_cell != old:
            reference = measure_perplexity(run, reference_cell, n_chunks)
            reference_baseline = make_baseline(
                run,
                reference_cell,
                run.cell_file(reference_cell),
                run.size(reference_cell),
                reference,
                None,
                None,
                {},
            )
    # Where nothing is asked that needs the text, what stands for the baseline has none either.
    kept = old if n_chunks is not None else replace(old, text=NO_TEXT)
    baseline = make_baseline(run, kept, file, size, perplexity, reference, None, measured)
    return OldSide(
        cell=old,
        file=file,
        size=size,
        perplexity=perplexity,
        reference=reference,
        measured=measured,
        baseline=_on_this_machine(baseline, measured, now),
        reference_baseline=reference_baseline,
        notes=tuple(notes),
    )


def _on_this_machine(
    baseline: Baseline, then: Mapping[str, Any], now: Mapping[str, Any]
) -> Baseline:
    """Let the old engine's memory be comparable: its build is another, the machine is the same."""
    before, after = then.get("memory"), now.get("memory")
    if not isinstance(before, MemoryMeasurement) or not isinstance(after, MemoryMeasurement):
        return baseline
    stored = baseline.memory.get(before.fingerprint.digest)
    if stored is None:
        return baseline
    moved = stored.model_copy(update={"fingerprint": after.fingerprint})
    return baseline.model_copy(update={"memory": {after.fingerprint.digest: moved}})


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """One engine's file with the other's runtime; ``perplexity`` None where that failed."""

    record: CellRecord
    perplexity: PerplexityMeasurement | None


def measure_crossed(
    run: Run, cell: Cell, old: OldSide, file: CellFile, n_chunks: int | None
) -> tuple[Crossed, ...]:
    """Measure the new file with the old runtime, and the old file with the new one.

    Nothing where the files are the same. What one of them cannot do is told in its record.
    """
    if n_chunks is None or file.tensor_data_sha256 == old.file.tensor_data_sha256:
        return ()
    sides = ((cell.quantizer, old.cell.engine), (old.cell.quantizer, cell.engine))
    return tuple(
        _measure(
            run, with_engines(run.settings, cell, quantizer=quantizer, engine=engine), n_chunks
        )
        for quantizer, engine in sides
    )


def _measure(run: Run, cell: Cell, n_chunks: int) -> Crossed:
    try:
        reference_cell = run.reference_cell(cell)
        perplexity = measure_perplexity(run, cell, n_chunks)
        reference = (
            None if reference_cell == cell else measure_perplexity(run, reference_cell, n_chunks)
        )
        record = cell_record(run, cell, run.cell_file(cell), run.size(cell), perplexity, reference)
    except CellError as error:
        return Crossed(record=failed_record(run, cell, error), perplexity=None)
    return Crossed(record=record, perplexity=perplexity)


def measured_cause(cause: str, old: OldSide, crossed: Sequence[Crossed]) -> str:
    """Complete a cause that hashes gave by how far each part moves the perplexity by itself.

    Hashes tell that the file and the libraries changed; only this tells which of them mattered.
    """
    told, moved = [], []
    for part, side in zip(_PARTS, crossed, strict=True):
        if side.perplexity is None or old.perplexity is None:
            told.append(f"{part} alone {side.record.verdict}: {side.record.reason}")
            moved.append(part)
            continue
        found = perplexity_shift(side.perplexity, old.perplexity)
        assert found is not None  # both begin with the same chunks
        if found.is_identical:
            told.append(f"{part} alone: identical")
        else:
            change, low, high = (percent(x) for x in (found.change, found.low, found.high))
            told.append(f"{part} alone: PPL {change} [{low}, {high}]")
            moved.append(part)
    inferred = f"cause: {_PARTS[0]} ("
    if cause.startswith(inferred) and moved:
        cause = f"cause: {' and '.join(moved)} ({cause.removeprefix(inferred)}"
    return f"{cause}; measured apart: {'; '.join(told)}"


def needs_text(cell: Cell, names: Collection[str]) -> bool:
    """Tell whether the metrics asked for need the cell's text."""
    return cell.text != NO_TEXT and not BY_CHUNK.isdisjoint(names)
