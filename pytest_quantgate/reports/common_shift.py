"""What many cells have in common, in a sentence beside them."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_quantgate import stats
from pytest_quantgate.gate.compare.common_shift import CommonShift, Direction
from pytest_quantgate.reports.blocks import Block, Paragraph, Prose, listed, spans, strong
from pytest_quantgate.reports.words import count, number

_CERTAINTY = f"beyond chance at {100 - 100 * stats.ALPHA_REGRESSED:g} %"


def common_shift_blocks(shifts: Sequence[CommonShift]) -> list[Block]:
    """Return how far the cells that moved did so together; nothing where fewer than two did."""
    if not shifts:
        return []
    most = max(shifts, key=lambda shift: shift.cells)
    clusters = count(most.clusters, "document" if most.of_documents else "cluster")
    what = f"The {count(most.cells, 'cell')} that moved and are not red"
    return [
        Paragraph(
            text=spans(
                f"{what}, taken together over {clusters}: ",
                listed(map(_shift, shifts), "; "),
                ".",
            )
        )
    ]


def _shift(shift: CommonShift) -> Prose:
    values = shift.mean_nats, shift.low_nats, shift.high_nats
    if shift.metric == "perplexity":
        mean, low, high = (number(100 * stats.ppl_change(nats), "+.3f") for nats in values)
        text = f"PPL {mean} % (95 %: {low} to {high})"
    else:
        mean, low, high = (number(nats, "+.6f") for nats in values)
        text = f"mean KLD {mean} nats (95 %: {low} to {high})"
    if shift.direction is Direction.NONE:
        return f"{text}, no common change beyond chance"
    return spans(f"{text}, ", strong(f"a common {shift.direction.value} {_CERTAINTY}"))
