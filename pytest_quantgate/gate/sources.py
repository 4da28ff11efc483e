"""What a cell is held against: the gate's loop knows the protocol alone.

The stored baselines are here; another engine that measures the cell too is in
:mod:`pytest_quantgate.gate.old_engine`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from pytest_quantgate.config.metrics import LIMITS, METRICS
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.bounds import not_comparable, only
from pytest_quantgate.gate.measuring import CellMeasurement
from pytest_quantgate.gate.observation import Observation, Versus
from pytest_quantgate.gate.question import Answer, Asked
from pytest_quantgate.gate.reasons.comparability import (
    BaselineOfOtherSettings,
    DamagedBaseline,
    NoBaseline,
    Plain,
)
from pytest_quantgate.matrix.resolved import ResolvedCell
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.measurements.perplexity import TokenChanges, token_changes
from pytest_quantgate.results.verdicts import Against, Fact, Judgement, VerdictKind


@dataclass(frozen=True, kw_only=True)
class Before:
    """What a cell is held against at a look.

    ``judgements`` are of the source itself, such as a baseline that is missing. ``earlier`` is
    the cell's baseline under settings that no profile has any more, where there is none of these.
    """

    versus: Versus
    baseline: Baseline | None = None
    earlier: Baseline | None = None
    reference_baseline: Baseline | None = None
    tokens_changed: TokenChanges | None = None
    judgements: tuple[Judgement, ...] = ()


class BaselineSource(Protocol):
    """Where what a cell is held against comes from."""

    @property
    def n_chunks(self) -> int | None:
        """How many chunks it has or can be given, up to which an undecided cell goes on.

        None where there is nothing to compare with.
        """

    def before(self, now: CellMeasurement, asked: Asked, n_chunks: int | None) -> Before:
        """Return what stands as the baseline of as many chunks as were scored.

        Raises:
            CellUnavailable: the source is not there at all.

        """

    def judge_apart(self, seen: Observation, asked: Asked) -> list[Judgement]:
        """Judge the limits that need something else than what stands as the baseline."""

    def complete(self, now: CellMeasurement, answer: Answer, n_chunks: int | None) -> Answer:
        """Add what the source knows besides to an answer."""

    def explain_failure(self, failed: Answer, asked: frozenset[str]) -> Answer:
        """Say of a cell that could not be measured whether the source could."""


class StoredBaselines:
    """The baselines in the project's folder, and those that ship."""

    def __init__(self, session: Session, cell: ResolvedCell) -> None:
        self._session, self._cell = session, cell
        self._stored = session.stored(cell.cell)

    @property
    def n_chunks(self) -> int | None:
        """Chunks, in the order in which they are visited now, up to the stored baseline's last.

        In the order that the baseline was made in, these are the baseline's own chunks.
        """
        baseline = self._stored.baseline
        if baseline is None or baseline.perplexity is None:
            return None
        stored = set(baseline.perplexity.chunks.index)
        order = self._session.artifacts.chunk_plan(self._cell).order
        places = [place for place, index in enumerate(order, start=1) if index in stored]
        return max(places, default=len(stored))

    def before(self, now: CellMeasurement, asked: Asked, n_chunks: int | None) -> Before:
        """Return the stored baselines of the cell and its reference."""
        del n_chunks
        session, baseline = self._session, self._stored.baseline
        changes = reference_baseline = None
        if now.perplexity is not None and baseline is not None and baseline.perplexity is not None:
            kept = session.measurements.tokens(baseline.perplexity.per_token_sha256)
            changes = None if kept is None else token_changes(now.perplexity, kept)
        if now.reference is not None:
            reference_baseline = session.stored(self._cell.reference).baseline
        return Before(
            versus=Versus.BASELINE,
            baseline=baseline,
            earlier=session.baseline_before(self._cell.cell) if baseline is None else None,
            reference_baseline=reference_baseline,
            tokens_changed=changes,
            judgements=() if baseline is not None else self._missing(asked),
        )

    def _missing(self, asked: Asked) -> tuple[Judgement, ...]:
        if not any(
            _needs_baseline(limits) for name, limits in asked.limits if METRICS[name].needs_baseline
        ):
            return ()
        session, cell, problem = self._session, self._cell, self._stored.problem
        command = (
            f'{session.settings.overrides.command} -k "{cell.id}" --snapshot-update'
            ' --quant-reason "WHY"'
        )
        unlike = [
            cell.key.settings_unlike(stored) for stored in session.matrix.keys_before(cell.cell)
        ]
        kind = VerdictKind.NO_BASELINE
        fact: Fact = NoBaseline(command=command)
        if problem is not None:
            fact = DamagedBaseline(problem=problem, command=command)
        elif not session.matrix.is_gated:
            kind, fact = VerdictKind.MEASURED, Plain.NOT_STORED_YET
        elif unlike:
            kind = VerdictKind.NOT_COMPARABLE
            fact = BaselineOfOtherSettings(differing=min(unlike, key=len), command=command)
        # Not "against the baseline": there was nothing to compare with.
        return (only("perplexity", Against.NOTHING, kind, fact),)

    def judge_apart(self, seen: Observation, asked: Asked) -> list[Judgement]:
        """Judge nothing: the stored baseline has it all."""
        del seen, asked
        return []

    def complete(self, now: CellMeasurement, answer: Answer, n_chunks: int | None) -> Answer:
        """Add the baseline's rows of the chunks that were scored."""
        del now, n_chunks
        record, baseline = answer.record, self._stored.baseline
        if (
            baseline is None
            or baseline.perplexity is None
            or not_comparable(Observation(cell=record), baseline) is not None
        ):
            return answer
        rows = record.chunks.paired(baseline.perplexity.chunks).before
        return replace(answer, record=replace(record, baseline_chunks=rows))

    def explain_failure(self, failed: Answer, asked: frozenset[str]) -> Answer:
        """Add nothing."""
        del asked
        return failed


def _needs_baseline(limits: Limits) -> bool:
    return any(
        limit.needs_baseline and getattr(limits, name) is not None for name, limit in LIMITS.items()
    )


def needs_text(cell: ResolvedCell, metrics: frozenset[str]) -> bool:
    """Return whether the metrics asked for need the cell's text."""
    return cell.text is not None and any(METRICS[name].by_chunk for name in metrics)
