"""What fails a run: what decided, because of what, and what to type; the evidence apart."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_quantgate.reports.blocks import (
    Block,
    Bullets,
    Folded,
    Prose,
    bullets,
    spans,
    strong,
)
from pytest_quantgate.reports.next_steps import next_step
from pytest_quantgate.reports.words import first_line, some
from pytest_quantgate.results.record import CellRecord, RunRecord

_MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class RedCell:
    """A cell that fails the run.

    ``reasons`` are those of the judgements that decided, the first of them first; ``log`` is what
    an engine said, "" for nothing; ``evidence`` is what shows the cause.
    """

    cell: CellRecord
    reasons: tuple[str, ...]
    log: str
    cause: str
    evidence: tuple[str, ...]
    next_step: Prose


def find_red(record: RunRecord) -> tuple[RedCell, ...]:
    """Return the cells that fail a run."""
    return tuple(_red(cell, record) for cell in record.cells if cell.is_red)


def _red(cell: CellRecord, record: RunRecord) -> RedCell:
    deciding = tuple(str(item.reason) for item in cell.judgements if item.verdict is cell.kind)
    cause = cell.cause
    return RedCell(
        cell=cell,
        reasons=deciding or (first_line(cell.reason),),
        log=cell.reason.partition("\n")[2].strip(),
        cause="" if cause is None else f"cause: {cause.kind.value}",
        evidence=() if cause is None else (*cause.evidence, *cause.measured),
        next_step=next_step(cell, record),
    )


def red_blocks(record: RunRecord) -> list[Block]:
    """Return each red cell with why and what to do next, then the evidence, folded."""
    red = find_red(record)
    if not red:
        return []
    titles = (spans(strong(item.cell.id), f" {_verdict(item)}") for item in red)
    details: list[tuple[Prose, ...]] = []
    for item in red:
        causes = [item.cause] if item.cause else []
        details.append((*item.reasons[1:], *causes, spans("Next: ", *item.next_step)))
    blocks: list[Block] = [Bullets(items=tuple(titles), below=tuple(details))]
    shown = [item for item in red if item.evidence or item.log]
    if shown:
        told = bullets(spans(strong(item.cell.id), f" {_evidence(item)}") for item in shown)
        blocks.append(Folded(summary="Evidence", blocks=tuple(told)))
    return blocks


def next_blocks(record: RunRecord) -> list[Block]:
    """Return what to do next, once for all red cells of which it holds."""
    cells_of: dict[Prose, list[str]] = {}
    for item in find_red(record):
        cells_of.setdefault(item.next_step, []).append(item.cell.id)
    return bullets(
        spans(f"Next for {some(cells, _MOST_NAMED)}: ", *step) for step, cells in cells_of.items()
    )


def _verdict(item: RedCell) -> str:
    return f"{item.cell.verdict}: {item.reasons[0]}"


def _evidence(item: RedCell) -> str:
    return "; ".join(filter(None, (*item.evidence, item.log)))
