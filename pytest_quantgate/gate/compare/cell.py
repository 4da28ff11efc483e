"""What changed in one cell, from an old engine's record of it to a new one's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from pytest_quantgate import stats
from pytest_quantgate.config.limit import Scope
from pytest_quantgate.config.metrics import LIMITS, METRICS
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.acceptance import make_baseline
from pytest_quantgate.gate.cause import fields_changed, find_cause
from pytest_quantgate.gate.compare.shifts import find_divergences, find_shift
from pytest_quantgate.gate.compare.speed import NO_COSTS, Costs, find_costs
from pytest_quantgate.gate.judge import conclude, judge_metric
from pytest_quantgate.gate.judges.bounds import not_comparable
from pytest_quantgate.gate.observation import Observation, Versus
from pytest_quantgate.gate.reasons.comparability import Plain, RecordsOfOtherSettings
from pytest_quantgate.gguf.digests import is_identity
from pytest_quantgate.gguf.tensor_changes import TensorChanges, compare_tensors
from pytest_quantgate.results.chunk_table import Shift
from pytest_quantgate.results.effects import Effects
from pytest_quantgate.results.measurements.speed import SpeedMeasurement
from pytest_quantgate.results.record import CellRecord
from pytest_quantgate.results.verdicts import Cause, Fact, Judgement, Verdict, VerdictKind

_CANNOT = frozenset(
    {
        VerdictKind.UNSUPPORTED,
        VerdictKind.UNAVAILABLE,
        VerdictKind.TIMEOUT,
        VerdictKind.CRASHED,
    }
)

_JUDGED = ("perplexity", "divergence", "routing", "size", "speed", "memory")
"""What is judged of two records, where both have it."""

_AGAINST_BASELINE = frozenset(
    name for name, limit in LIMITS.items() if limit.scope in (Scope.BASELINE, Scope.SAME_HARDWARE)
)


class Support(Enum):
    """Which of two engines can make and measure a cell."""

    BOTH = "both"
    NEW_ONLY = "the new one only"
    OLD_ONLY = "the old one only"
    NEITHER = "neither"


@dataclass(frozen=True, kw_only=True)
class Side:
    """A cell's record of one side, with the record of its reference if the run has one."""

    cell: CellRecord
    reference: CellRecord | None = None

    @property
    def can(self) -> bool:
        """Whether the engine could make and measure the cell."""
        return can_measure(self.cell)


@dataclass(frozen=True, kw_only=True)
class CellChange:
    """What changed in a cell.

    ``obstacle`` says why its figures are not compared; then, and where a side could not measure,
    the changes are None and empty. ``retokenized`` counts the chunks with other token ids,
    ``fields`` are the file's settings that changed, ``kld_nats`` the old and the new mean
    divergence, each from the reference of its own engine, on the common chunks. ``cause`` is there
    where anything moved, also within the limits. ``unreadable`` are the crossed cells in which an
    engine could not compute with the other's file.
    """

    old: CellRecord
    new: CellRecord
    verdict: Verdict
    support: Support
    obstacle: Fact | None = None
    retokenized: int = 0
    tensors: TensorChanges | None = None
    fields: tuple[str, ...] = ()
    ppl: Shift | None = None
    kld_nats: tuple[float, float] | None = None
    costs: Costs = NO_COSTS
    effects: Effects | None = None
    cause: Cause | None = None
    unreadable: tuple[CellRecord, ...] = ()

    @property
    def is_red(self) -> bool:
        """Whether the verdict is not green; what neither engine can do is no change."""
        kind = self.verdict.kind
        if self.support is Support.NEITHER and kind is VerdictKind.UNSUPPORTED:
            return False
        return not kind.is_green

    @property
    def is_compared(self) -> bool:
        """Whether the figures of both sides were compared."""
        return self.support is Support.BOTH and self.obstacle is None

    @property
    def size_changed(self) -> bool:
        """Whether the file has another number of bytes."""
        return self.is_compared and self.old.file_bytes != self.new.file_bytes

    @property
    def quality_moved(self) -> bool:
        """Whether any value of the text is not bit-equal."""
        return self.retokenized > 0 or (self.ppl is not None and not self.ppl.is_identical)

    @property
    def file_changed(self) -> bool:
        """Whether tensors, settings or size of the file changed."""
        tensors = self.tensors is not None and self.tensors.any
        return tensors or bool(self.fields) or self.size_changed

    @property
    def moved(self) -> bool:
        """Whether anything changed that is not of the machine's moment, or is red."""
        return self.is_red or self.quality_moved or self.file_changed or self.costs_moved

    @property
    def costs_moved(self) -> bool:
        """Whether speed or memory changed by more than their limits."""
        return any(
            item.metric in {"speed", "memory"}
            and item.verdict in {VerdictKind.REGRESSED, VerdictKind.IMPROVED}
            for item in self.verdict.judgements
        )

    @property
    def cause_name(self) -> str:
        """What moved it: measured by the two-by-two where that was done, else found by hashes."""
        measured = None if self.effects is None else self.effects.cause
        kind = measured or (None if self.cause is None else self.cause.kind)
        return "" if kind is None else kind.value


def can_measure(record: CellRecord) -> bool:
    """Tell whether a cell's file could be made and measured."""
    return record.kind not in _CANNOT and record.file_bytes is not None


def compare_cells(
    old: Side,
    new: Side,
    *,
    verdict: Verdict | None = None,
    effects: Effects | None = None,
    is_one_run: bool = False,
) -> CellChange:
    """Compare two records of a cell.

    Args:
        old: the side that is compared with.
        new: the side that is judged.
        verdict: what a test said of it; None judges by the cell's own limits against a baseline.
        effects: the two-by-two of quantizer and runtime, if it was measured.
        is_one_run: both were measured in one run, so on one machine.

    """
    support = _support(old, new)
    if support is not Support.BOTH:
        said = verdict or _verdict_of_support(old.cell, new.cell)
        return CellChange(old=old.cell, new=new.cell, support=support, verdict=said)
    if _identified_differently(old.cell, new.cell):
        old, new = _without_source(old), _without_source(new)
    obstacle = find_obstacle(old.cell, new.cell)
    if obstacle is not None:
        said = verdict or Verdict(kind=VerdictKind.NOT_COMPARABLE, reason=str(obstacle))
        return CellChange(
            old=old.cell, new=new.cell, support=support, verdict=said, obstacle=obstacle
        )
    change = replace(
        _compare_figures(old, new, verdict or judge_cells(old, new), is_one_run=is_one_run),
        effects=effects,
    )
    return replace(change, cause=_cause(change, old, new)) if change.moved else change


def _compare_figures(old: Side, new: Side, verdict: Verdict, *, is_one_run: bool) -> CellChange:
    return CellChange(
        old=old.cell,
        new=new.cell,
        support=Support.BOTH,
        verdict=verdict,
        retokenized=new.cell.chunks.paired(old.cell.chunks).retokenized,
        tensors=compare_tensors(old.cell.tensors, new.cell.tensors),
        fields=tuple(fields_changed(old.cell.metadata, new.cell.metadata)),
        ppl=find_shift(old.cell, new.cell),
        kld_nats=find_divergences(old.cell, new.cell),
        costs=find_costs(old.cell, new.cell, is_one_run=is_one_run),
    )


def _identified_differently(old: CellRecord, new: CellRecord) -> bool:
    """Tell whether one record has its source's plain SHA-256, as an earlier release wrote it."""
    known = [record.source_sha256 for record in (old, new) if record.source_sha256 is not None]
    return len({is_identity(text) for text in known}) > 1


def _without_source(side: Side) -> Side:
    return replace(side, cell=replace(side.cell, source_sha256=None))


def _support(old: Side, new: Side) -> Support:
    if old.can:
        return Support.BOTH if new.can else Support.OLD_ONLY
    return Support.NEW_ONLY if new.can else Support.NEITHER


def _verdict_of_support(old: CellRecord, new: CellRecord) -> Verdict:
    if can_measure(new):
        reason = f"new: the old record has no figures ({old.verdict}: {_line(old.reason)})"
        return Verdict(kind=VerdictKind.MEASURED, reason=reason)
    return Verdict(kind=new.kind, reason=new.reason)


def _line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def find_obstacle(old: CellRecord, new: CellRecord) -> Fact | None:
    """Return why two records of a cell cannot be compared, or None."""
    for record in (old, new):
        if not is_complete(record):
            return Plain.RECORD_INCOMPLETE
    assert old.key is not None
    assert new.key is not None
    if not _is_finite(old):
        return Plain.OLD_NOT_FINITE
    other = list(new.key.settings_unlike(old.key))
    if new.key.device_kind != old.key.device_kind:
        other.append(f"device kind {new.key.device_kind} (was {old.key.device_kind})")
    if other:
        return RecordsOfOtherSettings(differing=tuple(other))
    return not_comparable(_observe(Side(cell=new)), make_baseline(old))


def _is_finite(record: CellRecord) -> bool:
    return record.ppl is None or math.isfinite(record.ppl)


def judge_cells(old: Side, new: Side) -> Verdict:
    """Judge a cell's record as the gate would with the old one as its baseline.

    All common chunks are one look. What only one side measured is not judged.
    """
    seen, baseline = _observe(new, old.reference), make_baseline(old.cell)
    limits = comparing_limits(new.cell)
    n_chunks = max(1, len(new.cell.chunks))
    (look,) = stats.plan_looks((n_chunks,), n_chunks, n_chunks)
    judgements: list[Judgement] = []
    for name in _JUDGED:
        if METRICS[name].by_chunk and (not len(seen.chunks) or baseline.perplexity is None):
            continue
        if name == "divergence" and (baseline.divergence is None or seen.cell.divergence is None):
            continue
        if name == "routing" and baseline.routing is None:
            continue
        judgements += judge_metric(name, seen, limits, baseline, look)
    # MEASURED is what nothing could be held against, such as a speed of other hardware.
    judged = [item for item in judgements if item.verdict is not VerdictKind.MEASURED]
    return conclude(judged, seen, baseline)


def is_complete(record: CellRecord) -> bool:
    """Return whether a record has what two are compared by, and a file."""
    return record.key is not None and record.made_by is not None and record.file_bytes is not None


def _observe(side: Side, old_reference: CellRecord | None = None) -> Observation:
    """Return what a complete record says was observed, to be held against another record."""
    measured = {name: _of_this_run_alone(item) for name, item in side.cell.measured.items()}
    return Observation(
        cell=replace(side.cell, measured=measured),
        reference=None if side.reference is None else side.reference.chunks,
        reference_baseline=None
        if old_reference is None or not _is_finite(old_reference)
        else make_baseline(old_reference),
        text_sha256_with_lf=side.cell.text_sha256,
        domains=tuple(side.cell.ppl_by_domain),
        versus=Versus.OLD_RECORD,
    )


def _of_this_run_alone(measured: Any) -> Any:
    """Leave out what a speed was held against in its own run."""
    return replace(measured, against=()) if isinstance(measured, SpeedMeasurement) else measured


def comparing_limits(record: CellRecord) -> Limits:
    """Return those of a cell's limits that speak of a baseline."""
    return Limits.model_validate(
        {name: value for name, value in record.limits.items() if name in _AGAINST_BASELINE}
    )


def _cause(found: CellChange, old: Side, new: Side) -> Cause:
    moved = {
        name
        for name, did in (
            ("perplexity", found.quality_moved),
            ("size", found.file_changed),
            ("speed", found.costs_moved),
        )
        if did
    }
    return find_cause(_observe(new, old.reference), make_baseline(old.cell), moved=moved)
