"""Where the time of a run went, cell by cell."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_quantgate.reports.blocks import Column, Table, row, words
from pytest_quantgate.results.durations import STAGES, sum_durations
from pytest_quantgate.results.record import CellRecord, RunRecord

_LEAST_S = 0.05
"""A stage that takes less in every cell has no column."""


def durations_tables(record: RunRecord, n_cells: int) -> tuple[Table, ...]:
    """Return a table of the slowest cells' seconds by stage; ``n_cells`` 0 is all of them."""
    cells = sorted(record.cells, key=lambda cell: -cell.seconds_s)
    shown = cells[: n_cells or None]
    if not shown:
        return ()
    stages = stages_of(shown)
    total = sum_durations(*(cell.durations_s for cell in cells))
    in_cells_s = sum(cell.seconds_s for cell in cells)
    return (
        Table(
            title="slowest cells, in seconds",
            columns=(words("cell"), *map(_seconds, ("all", *stages))),
            rows=(
                *(row(c.id, *_figures(c.seconds_s, c.durations_s, stages)) for c in shown),
                row(f"all {len(cells)} cells", *_figures(in_cells_s, total, stages)),
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


def _seconds(name: str) -> Column:
    return Column(heading=name.replace("_", " "))


def _figures(all_s: float, durations_s: dict[str, float], stages: tuple[str, ...]) -> list[str]:
    return [f"{taken:.1f}" for taken in (all_s, *(durations_s.get(name, 0.0) for name in stages))]
