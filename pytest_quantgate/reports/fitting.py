"""Lays a run's table out for a terminal of some width.

What does not fit gives way in this order, and a figure never does:

1. the reason of a verdict is shortened, at the end of a clause where one fits;
2. the heading of the change from the reference is;
3. what was measured besides (speed, memory) goes into lines of its own below;
4. the reason is left out: a red one stands in full with the test's failure;
5. the columns come closer.

A long name of a format and its importance matrix may still be wider than a narrow terminal.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_quantgate.reports.table import CHANGE, FIRST, LAST, LEFT, Table, shortened

LEAST_WIDTH = 100
"""Tables are not laid out for less, however narrow a terminal is."""

WITHOUT_TERMINAL = 160
"""The width for a log or a file, which has none of its own."""

_SHORT_CHANGE = "ΔPPL [95 %]"
_LEAST_REASON = 24
_GAP = 2

Column = tuple[str, ...]
"""A heading, and the texts below it."""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """A table's lines: ``rows`` has one a row of the table, ``below`` what follows them.

    ``title`` is of two lines where its caveat does not fit beside it.
    """

    title: str
    heading: str
    rows: tuple[str, ...]
    below: tuple[str, ...]


def table_width() -> int:
    """Return the width to lay tables out for: the terminal's, with bounds for what has none."""
    return max(LEAST_WIDTH, shutil.get_terminal_size((WITHOUT_TERMINAL, 24)).columns)


def lay_out(table: Table, width: int) -> Lines:
    """Lay a table out for a terminal of so many columns."""
    grid = [table.headings, *(row.columns for row in table.rows)]
    columns: list[Column] = list(zip(*grid, strict=True))
    plain, (verdict, reason) = columns[: len(FIRST)], columns[-len(LAST) :]
    extra = columns[len(FIRST) : -len(LAST)]
    brief = [(_SHORT_CHANGE, *column[1:]) if column[0] == CHANGE else column for column in plain]
    for shown in ([*plain, *extra, verdict], [*brief, *extra, verdict], [*brief, verdict]):
        left = width - _taken(shown, _GAP) - _GAP
        if left >= min(_LEAST_REASON, _width(reason)):
            heading, *rows = _join([*shown, tuple(shortened(text, left) for text in reason)], _GAP)
            break
    else:
        heading, *rows = _join(shown, _GAP if _taken(shown, _GAP) <= width else 1)
    is_apart = bool(extra) and extra[0] not in shown
    apart = ["", *_join([plain[0], *extra], _GAP)] if is_apart else []
    title = table.title
    if table.caveat:
        whole = f"{title} ({table.caveat})"
        title = whole if len(whole) <= width else f"{title}\n({table.caveat})"
    return Lines(
        title=title,
        heading=heading,
        rows=tuple(rows),
        below=(*apart, *(f"note: {note}" for note in table.notes)),
    )


def text_lines(table: Table, width: int) -> list[str]:
    """Return all lines of a table."""
    lines = lay_out(table, width)
    return [*lines.title.splitlines(), lines.heading, *lines.rows, *lines.below]


def _width(column: Column) -> int:
    return max(map(len, column))


def _taken(columns: Sequence[Column], gap: int) -> int:
    return sum(map(_width, columns)) + gap * (len(columns) - 1)


def _join(columns: Sequence[Column], gap: int) -> list[str]:
    """Return the lines of some columns, each as wide as its widest text."""
    padded = []
    for column in columns:
        width, is_left = _width(column), column[0] in {*LEFT, _SHORT_CHANGE}
        padded.append([text.ljust(width) if is_left else text.rjust(width) for text in column])
    return [(" " * gap).join(line).rstrip() for line in zip(*padded, strict=True)]
