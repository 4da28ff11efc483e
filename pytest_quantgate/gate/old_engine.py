"""An old engine in the baselines' place: it measures every cell too.

Where its files differ, the file and the runtime are exchanged one at a time, so that it is seen,
and not inferred, which of the two moved a cell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pytest_quantgate.config.metrics import METRICS
from pytest_quantgate.errors import CellError, CellInvalid, CellUnavailable, CellUnsupported
from pytest_quantgate.gate.acceptance import make_baseline
from pytest_quantgate.gate.compare.cell import can_measure
from pytest_quantgate.gate.compare.shifts import find_effects
from pytest_quantgate.gate.judges.bounds import only
from pytest_quantgate.gate.judges.speed import judge_floors
from pytest_quantgate.gate.measuring import CellMeasurement, measure_cell
from pytest_quantgate.gate.observation import Observation, Versus
from pytest_quantgate.gate.question import Answer, Asked
from pytest_quantgate.gate.reasons.comparability import OldEngineUnable
from pytest_quantgate.gate.reasons.words import percent
from pytest_quantgate.gate.recording import failed_record, verdict_of
from pytest_quantgate.gate.sources import Before, needs_text
from pytest_quantgate.matrix.resolved import ResolvedCell
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.metrics.registry import measure_once
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.chunk_table import Shift
from pytest_quantgate.results.effects import Effects
from pytest_quantgate.results.measurements.absent import Absent
from pytest_quantgate.results.measurements.memory import MemoryMeasurement
from pytest_quantgate.results.measurements.perplexity import token_changes
from pytest_quantgate.results.record import CellRecord
from pytest_quantgate.results.verdicts import Against, Cause, CauseKind, Judgement, VerdictKind


class OldEngine:
    """Another engine that makes and measures every cell too, on the same machine."""

    def __init__(self, session: Session, cell: ResolvedCell) -> None:
        self._session, self._cell = session, cell
        self._old_cell = session.before(cell)
        self._old: CellMeasurement | None = None
        self._notes: tuple[str, ...] = ()
        if self._old_cell is None:
            return
        try:
            session.device(self._old_cell)
            session.artifacts.described_file(self._old_cell)
        except CellError as error:
            self._set_aside(error)

    @property
    def n_chunks(self) -> int | None:
        """Chunks of the text, or of the budget of baselines: it measures what the run does."""
        if self._session.before(self._cell) is None:
            return None
        profile = self._session.settings.profile
        n_chunks = self._session.artifacts.chunk_plan(self._cell).n_chunks
        return max(profile.baseline_chunks or n_chunks, profile.chunks)

    def _set_aside(self, error: CellError) -> None:
        """Go on without the old engine in a cell that it cannot measure: the new one can.

        Raises:
            CellUnavailable: the old engine is not there at all.

        """
        if isinstance(error, CellUnavailable):
            raise CellUnavailable(f"the old engine: {error}") from error
        self._session.unable_before[self._cell.id] = error

    def before(self, now: CellMeasurement, asked: Asked, n_chunks: int | None) -> Before:
        """Measure the old engine's cell as the new one's was; one that cannot is set aside."""
        old_cell = self._session.before(self._cell)
        self._old = None
        if old_cell is not None:
            try:
                self._old = self._measure(old_cell, asked.metrics, n_chunks)
                return self._stand_in(self._old, now, n_chunks)
            except CellError as error:
                self._set_aside(error)
        unable = self._session.unable_before.get(self._cell.id)
        judgements = () if unable is None else (_of_unable(unable),)
        return Before(versus=Versus.OLD_ENGINE, judgements=judgements)

    def _measure(
        self, old_cell: ResolvedCell, metrics: frozenset[str], n_chunks: int | None
    ) -> CellMeasurement:
        measured, notes = {}, []
        for name in (name for name, metric in METRICS.items() if metric.is_compared):
            try:
                value = measure_once(self._session, name, old_cell) if name in metrics else None
            except CellError as error:
                # One figure that it cannot give is no reason to compare nothing.
                notes.append(f"the old engine gives no {name}: {error}")
                continue
            if value is not None and not isinstance(value, Absent):
                measured[name] = value
        self._notes = tuple(notes)
        old = measure_cell(self._session, old_cell, n_chunks, measured)
        for perplexity in (old.perplexity, old.reference):
            if perplexity is not None and not math.isfinite(perplexity.perplexity):
                raise CellInvalid("its perplexity, or its reference's, is not finite")
        return old

    def _stand_in(self, old: CellMeasurement, now: CellMeasurement, n_chunks: int | None) -> Before:
        reference_baseline = changes = None
        if old.reference is not None:
            reference = measure_cell(self._session, self._session.reference(old.cell), n_chunks)
            reference_baseline = make_baseline(reference.record)
        if now.perplexity is not None and old.perplexity is not None:
            changes = token_changes(now.perplexity, old.perplexity)
        return Before(
            versus=Versus.OLD_ENGINE,
            baseline=_on_this_machine(
                make_baseline(old.record), old.record.measured, now.record.measured
            ),
            reference_baseline=reference_baseline,
            tokens_changed=changes,
        )

    def judge_apart(self, seen: Observation, asked: Asked) -> list[Judgement]:
        """Judge the floors of speed, which are of the hardware whose speed is stored."""
        stored = self._session.stored(self._cell.cell).baseline
        return [
            judgement
            for metric, limits in asked.limits
            if metric == "speed"
            for judgement in judge_floors(seen, limits, stored)
        ]

    def complete(self, now: CellMeasurement, answer: Answer, n_chunks: int | None) -> Answer:
        """Add the old engine's cell, the crossed ones, and which half moved the cell."""
        session, old = self._session, self._old
        if old is None:
            if self._old_cell is None:
                return answer
            error = session.unable_before[self._cell.id]
            return replace(answer, others=(failed_record(session, self._old_cell.cell, error),))
        old_record = replace(old.record, notes=(*old.record.notes, *self._notes))
        crossed = () if n_chunks is None else self._measure_crossed(now, old, n_chunks)
        effects = _effects(old_record, now.record, crossed)
        cause = answer.verdict.cause
        if cause is not None and crossed:
            cause = _with_halves(cause, effects, crossed)
        notes = (*answer.record.notes, *self._notes)
        return replace(
            answer,
            record=replace(answer.record, notes=notes, effects=effects),
            verdict=replace(answer.verdict, cause=cause),
            others=(old_record, *crossed),
        )

    def _measure_crossed(
        self, now: CellMeasurement, old: CellMeasurement, n_chunks: int
    ) -> tuple[CellRecord, ...]:
        """Measure the new file with the old runtime, and the old file with the new one.

        Nothing where the files are the same. What one of them cannot do is in its record.
        """
        if now.file.tensor_data_sha256 == old.file.tensor_data_sha256:
            return ()
        session, records = self._session, []
        for side in session.matrix.crossed(self._cell.cell, old.cell.cell):
            try:
                records.append(measure_cell(session, session.resolve(side), n_chunks).record)
            except CellError as error:
                records.append(failed_record(session, side, error))
        return tuple(records)

    def explain_failure(self, failed: Answer, asked: frozenset[str]) -> Answer:
        """Say whether the old engine can measure what the new one could not."""
        session, old_cell = self._session, self._old_cell
        if old_cell is None or failed.verdict.kind is VerdictKind.UNAVAILABLE:
            return failed
        others: tuple[CellRecord, ...] = ()
        try:
            n_chunks = (
                session.artifacts.looks(old_cell)[-1] if needs_text(old_cell, asked) else None
            )
            others = (self._measure(old_cell, asked, n_chunks).record,)
            text = "the old engine can"
        except CellError as error:
            if isinstance(error, CellUnsupported):
                # Then a refusal of both is no fault of the new one.
                session.unable_before[self._cell.id] = error
            text = f"nor can the old engine: {error}"
            others = (failed_record(session, old_cell.cell, error),)
        reason = f"{failed.verdict.reason}; {text}"
        return replace(
            failed,
            record=replace(failed.record, reason=reason),
            verdict=replace(failed.verdict, reason=reason),
            others=others,
        )


def _of_unable(error: CellError) -> Judgement:
    """Judge a cell that the old engine cannot measure and the new one can.

    A format that it does not know yet leaves nothing to compare with; a side that crashed or hung
    says nothing about the other one, and nobody may take it for a pass.
    """
    is_new = isinstance(error, CellUnsupported)
    kind = VerdictKind.MEASURED if is_new else VerdictKind.NOT_COMPARABLE
    fact = OldEngineUnable(verdict=verdict_of(error).value, problem=str(error))
    return only("support", Against.NOTHING, kind, fact)


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


def _effects(old: CellRecord, new: CellRecord, crossed: tuple[CellRecord, ...]) -> Effects | None:
    if not can_measure(new):
        return None
    on_old = on_new = None
    if crossed:
        on_old, on_new = (item if can_measure(item) else None for item in crossed)
    return find_effects(old, new, new_file_on_old=on_old, old_file_on_new=on_new)


_HALVES = (CauseKind.QUANTIZER, CauseKind.RUNTIME)
"""What an engine consists of, in the order of the crossed cells."""


def _with_halves(cause: Cause, effects: Effects | None, crossed: tuple[CellRecord, ...]) -> Cause:
    """Complete a cause that hashes gave by how far each half moves the perplexity by itself.

    Hashes show that the file and the libraries changed; only this shows which of them mattered.
    """
    shifts = (None, None) if effects is None else (effects.quantizer, effects.runtime)
    measured, moved = [], []
    for half, shift, record in zip(_HALVES, shifts, crossed, strict=True):
        measured.append(f"{half.value} alone{_alone(shift, record)}")
        moved.append(shift is None or not shift.is_identical)
    kind = cause.kind
    if kind is CauseKind.QUANTIZER and any(moved):
        kind = CauseKind.QUANTIZER_AND_RUNTIME if all(moved) else _HALVES[moved.index(True)]
    return replace(cause, kind=kind, measured=tuple(measured))


def _alone(shift: Shift | None, record: CellRecord) -> str:
    if shift is None:
        return f" {record.verdict}: {record.reason}"
    if shift.is_identical:
        return ": identical"
    change, low, high = (percent(x) for x in (shift.change, shift.low, shift.high))
    return f": PPL {change} [{low}, {high}]"
