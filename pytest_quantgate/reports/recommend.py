"""Which formats to take for given wishes, and why not each other one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_quantgate.reports.blocks import (
    Block,
    Column,
    Heading,
    Paragraph,
    Table,
    row,
    spans,
    strong,
    words,
)
from pytest_quantgate.reports.chunks import kld_on, same_top_on
from pytest_quantgate.reports.run_tables import FAULT_DETECTOR, Group, group_cells, label
from pytest_quantgate.reports.words import NONE, megabytes, number, rate, share
from pytest_quantgate.results.measurements.speed import SpeedMeasurement
from pytest_quantgate.results.record import CellRecord, RunRecord

Preference = Literal["quality", "size", "prefill", "decode"]


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a format must keep, and what counts among those that do; None asks for nothing."""

    max_bytes: float | None = None
    min_same_top: float | None = None
    max_kld_nats: float | None = None
    prefer: Preference = "quality"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A cell's figures that wishes are about; ``why_not`` is "" for one that can be taken."""

    cell: CellRecord
    file_bytes: int | None
    kld_nats: float | None
    same_top: float | None
    tokens_per_s: float | None
    why_not: str = ""


def candidates(group: Group, wishes: Wishes) -> tuple[Candidate, ...]:
    """Return the formats of a group, each with the reason that keeps it out."""
    kept: list[Candidate] = []
    judged: list[Candidate] = []
    for cell in group.cells:
        candidate = _candidate(cell, group, wishes)
        twin = next((k for k in kept if _is_twin(cell, k.cell)), None)
        why_not = _unfit(candidate, wishes)
        if not why_not and twin is not None:
            why_not = f"the same bytes as {label(twin.cell)}"
        judged.append(_with(candidate, why_not))
        if not why_not:
            kept.append(candidate)
    return tuple(
        item if item.why_not else _with(item, _dominated(item, kept, wishes)) for item in judged
    )


def _with(candidate: Candidate, why_not: str) -> Candidate:
    return Candidate(**{**vars(candidate), "why_not": why_not})


def _is_twin(cell: CellRecord, other: CellRecord) -> bool:
    digest = cell.tensor_data_sha256
    return digest is not None and digest == other.tensor_data_sha256


def _candidate(cell: CellRecord, group: Group, wishes: Wishes) -> Candidate:
    speed = cell.measured.get("speed")
    phase = wishes.prefer if wishes.prefer in {"prefill", "decode"} else "decode"
    is_reference = cell.is_reference and cell.ppl is not None
    return Candidate(
        cell=cell,
        file_bytes=cell.file_bytes,
        kld_nats=0.0 if is_reference else kld_on(cell, group.chunks),
        same_top=1.0 if is_reference else same_top_on(cell, group.chunks),
        tokens_per_s=speed.tokens_per_s(phase) if isinstance(speed, SpeedMeasurement) else None,
    )


def _unfit(candidate: Candidate, wishes: Wishes) -> str:
    """Return the first wish that a format does not keep, or what it lacks."""
    cell = candidate.cell
    if cell.is_red:
        return f"red: {cell.verdict}"
    if candidate.file_bytes is None:
        return f"not measured: {cell.verdict}"
    if wishes.max_bytes is not None and candidate.file_bytes > wishes.max_bytes:
        size, most = megabytes(candidate.file_bytes, 3), megabytes(wishes.max_bytes, 3)
        return f"{size} MB is more than {most} MB"
    if candidate.kld_nats is None or not math.isfinite(candidate.kld_nats):
        return "its divergence was not measured"
    if wishes.max_kld_nats is not None and candidate.kld_nats > wishes.max_kld_nats:
        return f"KLD {candidate.kld_nats:.4f} is above {wishes.max_kld_nats:g}"
    if wishes.min_same_top is not None:
        if candidate.same_top is None:
            return "its share of equal top tokens was not measured"
        if candidate.same_top < wishes.min_same_top:
            return f"same top {share(candidate.same_top)} is below {share(wishes.min_same_top)}"
    if wishes.prefer in {"prefill", "decode"} and candidate.tokens_per_s is None:
        return "its speed was not measured (speed = true in the profile)"
    return ""


def _dominated(candidate: Candidate, others: Sequence[Candidate], wishes: Wishes) -> str:
    """Return what is no larger, no worse and no slower, and in one of these better."""
    is_about_speed = wishes.prefer in {"prefill", "decode"}

    def costs(item: Candidate) -> tuple[float, ...]:
        speed = (-(item.tokens_per_s or 0.0),) if is_about_speed else ()
        return (item.file_bytes or 0, item.kld_nats or 0.0, *speed)

    mine = costs(candidate)
    for other in others:
        theirs = costs(other)
        if theirs != mine and all(a <= b for a, b in zip(theirs, mine, strict=True)):
            slower = ", no slower" if is_about_speed else ""
            return f"{label(other.cell)} is no larger{slower} and no further from the reference"
    return ""


def choice(front: Sequence[Candidate], wishes: Wishes) -> Candidate | None:
    """Return the one of the Pareto front that is best in what is preferred."""
    if not front:
        return None
    match wishes.prefer:
        case "size":
            return min(front, key=lambda item: item.file_bytes or 0)
        case "quality":
            return min(front, key=lambda item: item.kld_nats or 0.0)
        case _:
            return max(front, key=lambda item: item.tokens_per_s or 0.0)


def recommend_blocks(record: RunRecord, wishes: Wishes) -> list[Block]:
    """Return for each model the choice in a sentence, the front, and why each other one is out."""
    blocks: list[Block] = []
    for group in group_cells(record):
        judged = candidates(group, wishes)
        front = [item for item in judged if not item.why_not]
        best = choice(front, wishes)
        blocks.append(Heading(text=group.title))
        if group.only_detects_faults:
            blocks.append(Paragraph(text=f"Take no format because of this: {FAULT_DETECTOR}."))
        sentence = _sentence(best, wishes, is_advice=not group.only_detects_faults)
        blocks += [Paragraph(text=sentence), _table(judged, best, wishes)]
    return blocks


def _sentence(best: Candidate | None, wishes: Wishes, *, is_advice: bool) -> tuple[str, ...]:
    if best is None:
        return ("No format keeps these wishes.",)
    reason = {
        "quality": "nothing that fits is nearer to the reference",
        "size": "nothing that keeps the wishes is smaller",
        "prefill": "nothing that fits reads a prompt faster",
        "decode": "nothing that fits generates text faster",
    }[wishes.prefer]
    figures = f"{megabytes(best.file_bytes)} MB, KLD {number(best.kld_nats, '.4f')}"
    top = f", same top {share(best.same_top)}" if best.same_top is not None else ""
    take = "Take" if is_advice else "By these figures it would be"
    return (f"{take} {label(best.cell)} ({figures}{top}): {reason}.",)


def _table(judged: Sequence[Candidate], best: Candidate | None, wishes: Wishes) -> Table:
    has_speed = any(item.tokens_per_s is not None for item in judged)
    phase = "pp" if wishes.prefer == "prefill" else "tg"
    rows = []
    for item in judged:
        speed = NONE if item.tokens_per_s is None else rate(item.tokens_per_s)
        is_best = best is not None and item.cell is best.cell
        rows.append(
            row(
                label(item.cell),
                megabytes(item.file_bytes),
                number(item.kld_nats, ".4f"),
                share(item.same_top),
                *([speed] if has_speed else []),
                spans(strong("take it")) if is_best else item.why_not or "on the Pareto front",
            )
        )
    figures = ["size MB", "KLD", "same top", *([f"{phase} t/s"] if has_speed else [])]
    return Table(
        columns=(words("format"), *(Column(heading=name) for name in figures), words("why")),
        rows=tuple(rows),
    )
