"""A changed cell in words: the row of what moved, its cause, its speed and memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pytest_quantgate.gate.compare.cell import CellChange, Support
from pytest_quantgate.gate.compare.speed import SpeedChange
from pytest_quantgate.gate.reasons.words import percent
from pytest_quantgate.reports.blocks import (
    Column,
    Row,
    Span,
    code,
    intervals,
    listed,
    row,
    spans,
    strong,
    words,
)
from pytest_quantgate.reports.words import NONE, megabytes, rate
from pytest_quantgate.results.chunk_table import Shift
from pytest_quantgate.results.verdicts import worst

COLUMNS = (
    words("cell"),
    words("verdict"),
    intervals("ΔPPL [95 %]"),
    intervals("mean KLD, same top", drop=2),
    intervals("size", drop=1),
    Column(heading="how sure", is_text=True, drop=3),
    words("cause"),
)
"""What moved; a terminal that is too narrow for all leaves some out."""

_LEAST = 1e-6
"""A relative change of perplexity below this is written as being below it."""

_MOST_NAMES = 8

_SAME = "same"


def ordered(changes: Iterable[CellChange]) -> list[CellChange]:
    """Return the worst verdict first, then the largest move of perplexity."""

    def rank(change: CellChange) -> tuple[bool, int, float]:
        kinds = [other.verdict.kind for other in all_changes]
        same_or_better = sum(worst([kind, change.verdict.kind]) is not kind for kind in kinds)
        shift = change.ppl
        size = math.inf if shift is None else max(map(abs, (shift.low, shift.high, shift.change)))
        return change.is_red, same_or_better, size if math.isfinite(size) else math.inf

    all_changes = list(changes)
    return sorted(all_changes, key=rank, reverse=True)


def moved_row(change: CellChange) -> Row:
    """Return the cells of ``COLUMNS``."""
    verdict = change.verdict.kind.value
    return row(
        (code(change.new.id),),
        (strong(verdict),) if change.is_red else verdict,
        _perplexity(change),
        _divergence(change),
        _size(change),
        _how_sure(change),
        _cause(change),
        is_red=change.is_red,
    )


def shift_text(shift: Shift | None) -> str:
    """Return a relative change with its interval, with the digits that its size asks for."""
    if shift is None:
        return NONE
    if shift.is_identical:
        return "identical"
    if not (math.isfinite(shift.change) and math.isfinite(shift.high)):
        return percent(shift.change)
    largest = max(map(abs, (shift.low, shift.high)))
    if largest < _LEAST:
        return f"within ±{100 * _LEAST:.4f} %"
    digits = 2 if largest >= 5e-4 else 4
    low, high = (percent(bound, digits)[:-2] for bound in (shift.low, shift.high))
    return f"{percent(shift.change, digits)} [{low}, {high}]"


def is_rounding(change: CellChange) -> bool:
    """Return whether a green cell moved by so little that another order of sums explains it."""
    shift = change.ppl
    if change.is_red or change.file_changed or change.costs_moved or shift is None:
        return False
    return not change.retokenized and max(map(abs, (shift.low, shift.high))) < _LEAST


def largest_text(changes: Iterable[CellChange]) -> str:
    """Return how far perplexity moved at most, "" where it moved nowhere."""
    moves = [
        abs(change.ppl.change)
        for change in changes
        if change.ppl is not None and math.isfinite(change.ppl.change)
    ]
    largest = max(moves, default=0.0)
    if largest == 0:
        return ""
    if largest < _LEAST:
        return f"PPL by less than {100 * _LEAST:.4f} %"
    return f"PPL by at most {100 * largest:.{2 if largest >= 5e-4 else 4}f} %"


def _perplexity(change: CellChange) -> str:
    if not change.is_compared:
        return NONE
    if change.retokenized and change.old.ppl is not None and change.new.ppl is not None:
        return f"{change.old.ppl:.4f} → {change.new.ppl:.4f}"
    return shift_text(change.ppl)


def _divergence(change: CellChange) -> str:
    """Tell both divergences on the common chunks; the top tokens where all chunks are common."""
    if change.kld_nats is None:
        return NONE
    before, after = change.old.divergence, change.new.divergence
    if not change.quality_moved and before == after:
        return _SAME
    text = _arrow(*(f"{nats:.5f}" for nats in change.kld_nats))
    all_common = set(change.old.chunks.index) == set(change.new.chunks.index)
    if before is None or after is None or not all_common:
        return text
    return f"{text}, {_arrow(*(f'{100 * item.same_top:.1f}' for item in (before, after)))} %"


def _arrow(before: str, after: str) -> str:
    return before if before == after else f"{before} → {after}"


def _size(change: CellChange) -> str:
    before, after = change.old.file_bytes, change.new.file_bytes
    if not change.is_compared or before is None or after is None:
        return NONE
    if before == after:
        return _SAME
    relative = after / before - 1
    return f"{after - before:+,} bytes ({percent(relative)})".replace("-", "−")


def _how_sure(change: CellChange) -> str:
    """Return what a change rests on: facts of this text, or an interval over how many clusters."""
    shift = change.ppl
    if not change.is_compared or shift is None:
        return "a fact of the file" if change.is_compared else NONE
    if shift.is_identical:
        return f"bit-identical on {shift.tokens:,} tokens"
    over = "documents" if shift.of_documents else "clusters"
    return f"{shift.chunks_changed} of {shift.chunks} chunks changed, {shift.clusters:,} {over}"


def _cause(change: CellChange) -> str:
    if change.support is Support.NEW_ONLY:
        return "the old engine could not"
    if change.support is Support.OLD_ONLY:
        return "the new engine cannot"
    if change.obstacle is not None:
        return "not compared"
    return change.cause_name or NONE


def explanation(change: CellChange) -> str:
    """Return what shows a cell's cause, without figures: equal for cells moved by the same."""
    assert change.tensors is not None
    parts = []
    if change.retokenized:
        parts.append("the same text has other token ids")
    if change.fields:
        parts.append(f"metadata changed: {', '.join(change.fields)}")
    if change.tensors.any:
        parts.append(change.tensors.describe())
    elif change.size_changed:
        parts.append("all tensors are the same: the file has other metadata")
    elif not change.fields:
        parts.append("the files are identical: all of it is the runtime")
    return "; ".join(parts)


def speed_text(speed: SpeedChange | None) -> str:
    """Return how many times the old speed, with the interval and both speeds."""
    if speed is None:
        return NONE
    return (
        f"{speed.ratio:.3f}× [{speed.low:.3f}, {speed.high:.3f}]"
        f" ({rate(speed.old_tokens_per_s)} → {rate(speed.new_tokens_per_s)} t/s)"
    )


def peak_text(change: CellChange) -> str:
    """Return both peaks of memory in MB, and the relative change."""
    if change.costs.peak_bytes is None:
        return NONE
    then, now = change.costs.peak_bytes
    return f"{megabytes(then)} → {megabytes(now)} ({percent(now / then - 1, 1)})"


def names(changes: Sequence[CellChange]) -> tuple[str | Span, ...]:
    """Name cells for a sentence."""
    return name_some([change.new.id for change in changes])


def name_some(ids: Sequence[str]) -> tuple[str | Span, ...]:
    """Name cells, of many the first ones."""
    more = f" and {len(ids) - _MOST_NAMES} more" if len(ids) > _MOST_NAMES else ""
    return spans(listed(map(code, ids[:_MOST_NAMES])), more)


def short(change: CellChange) -> tuple[str | Span, ...]:
    """Return a red cell's verdict in a few words."""
    details = []
    if change.ppl is not None and not change.ppl.is_identical:
        details.append(f"PPL {percent(change.ppl.change)}")
    if change.cause_name:
        details.append(change.cause_name)
    more = f" ({', '.join(details)})" if details else ""
    return (code(change.new.id), f" {change.verdict.kind.value}{more}")
