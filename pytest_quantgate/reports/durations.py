"""Where the time of a run went, cell by cell."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_quantgate.reports.blocks import Column, Row, Table, row, words
from pytest_quantgate.results.durations import STAGES, sum_durations
from pytest_quantgate.results.record import CellRecord, RunRecord

_LEAST_S = 0.05
"""A stage that takes less has no column on the page."""
_LEAST_SHARE = 0.03
"""A stage that takes a smaller share of its cell is not named in the terminal."""


def durations_tables(record: RunRecord, n_cells: int) -> tuple[Table, ...]:
    """Return a table of the slowest cells' seconds by stage; ``n_cells`` 0 is all of them."""
    cells = sorted(record.cells, key=lambda cell: -cell.seconds_s)
    if not cells:
        return ()
    total = sum_durations(*(cell.durations_s for cell in cells))
    return (
        Table(
            title="slowest cells",
            columns=(Column(heading="cell", is_left=True), Column(heading="s"), words("of these")),
            rows=(
                *(_row(cell.id, cell.durations_s) for cell in cells[: n_cells or None]),
                _row(f"all {len(cells)} cells", total),
            ),
            notes=(f"the whole run took {record.seconds_s:.1f} s",),
        ),
    )


def stages_of(cells: Iterable[CellRecord]) -> tuple[str, ...]:
    """Return the stages that took some time in one of the cells."""
    there = {
        name for cell in cells for name, taken_s in cell.durations_s.items() if taken_s >= _LEAST_S
    }
    return tuple(name for name in STAGES if name in there)


def _row(name: str, durations_s: dict[str, float]) -> Row:
    all_s = sum(durations_s.values())
    longest = sorted(durations_s.items(), key=lambda item: -item[1])
    stages = (
        f"{stage.replace('_', ' ')} {taken_s:.1f}"
        for stage, taken_s in longest
        if taken_s >= _LEAST_SHARE * all_s
    )
    return row(name, f"{all_s:.1f}", ", ".join(stages))
