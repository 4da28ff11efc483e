"""Lays blocks out for a terminal of some width, with rich; 80 columns are the default and fit.

Numbers are never shortened. On narrow terminals a table gives way in this order:

1. a reason is shortened, at the end of a clause where one fits;
2. headings are shortened, and stand on several lines;
3. columns are left out, those with the largest ``drop`` first; what ``is_below`` goes into a table
   of its own below;
4. names are written on several lines.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from pytest_quantgate.reports.blocks import (
    Block,
    Bullets,
    Column,
    Folded,
    Heading,
    Listing,
    Paragraph,
    Prose,
    Span,
    Table,
    plain,
)
from pytest_quantgate.reports.words import logged, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 80
"""The width for a log or a file, which has none of its own."""

_HELD = "\ue000"
"""What stands for the space of a percentage while lines are broken: rich breaks at any other."""

_GAP = 2


def terminal_width() -> int:
    """Return the width to lay reports out for."""
    return shutil.get_terminal_size((WIDTH, 24)).columns


def text(blocks: Sequence[Block], width: int | None = None, *, colour: bool = False) -> str:
    """Return the lines of a report, each ended, in so many columns; the terminal's by default."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width or terminal_width(),
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,  # the caller knows what NO_COLOR says
        legacy_windows=False,
        emoji=False,
        highlight=False,
        markup=False,
    )
    for n, block in enumerate(blocks):
        if (
            n
            and isinstance(block, Heading | Table)
            and (not isinstance(block, Table) or block.title)
        ):
            console.print()
        for item in _renderables(block, console.width):
            console.print(item)
    lines = stream.getvalue().replace(_HELD, " ").splitlines()
    written = "".join(f"{line.rstrip()}\n" for line in lines)
    return written if colour else logged(written)


def _renderables(block: Block, width: int) -> Iterator[RenderableType]:
    match block:
        case Heading():
            yield _styled(block.text, "bold")
        case Paragraph():
            yield _styled(block.text, "bold" if block.is_strong else "")
        case Bullets():
            below = block.below or ((),) * len(block.items)
            for item, inner in zip(block.items, below, strict=True):
                yield _styled(item)
                for detail in inner:
                    yield Padding(_styled(detail), (0, 0, 0, 2))
        case Listing():
            for command in block.lines:
                yield Padding(_styled(command), (0, 0, 0, 2))
        case Folded():
            yield Text(f"{block.summary}: see a Markdown or HTML report")
        case Table():
            yield from _table(block, width)


def _table(table: Table, width: int) -> Iterator[RenderableType]:
    if table.title:
        title = _styled(table.title, "bold")
        if table.caveat:
            fits = cell_len(f"{table.title} ({table.caveat})") <= width
            title.append(f"{' ' if fits else chr(10)}({table.caveat})", style="not bold")
        yield title
    shown, below = fit(table, width)
    yield _grid(shown)
    if below is not None:
        yield Text("")
        yield _grid(below)
    for note in table.notes:
        yield Text(f"{table.note_word}: ").append_text(_styled(note))


def fit(table: Table, width: int) -> tuple[Table, Table | None]:
    """Return a table that fits, and one with what stands below it instead.

    A table that cannot fit keeps what is never left out, and its words take several lines.
    """
    drops = sorted({column.drop for column in table.columns} - {0}, reverse=True)
    for count, is_brief in product(range(len(drops) + 1), (False, True)):
        kept = [n for n, c in enumerate(table.columns) if c.drop not in drops[:count]]
        shown = _pick(table, kept, width, is_brief=is_brief)
        if _width(shown) <= width:
            break
    below = [n for n, c in enumerate(table.columns) if c.is_below and n not in kept]
    return shown, _pick(table, [0, *below], width, is_brief=False) if below else None


def _pick(table: Table, kept: Sequence[int], width: int, *, is_brief: bool) -> Table:
    """Return some columns, with headings on several lines and texts shortened to what is left."""
    rows = [[line.cells[n] for n in kept] for line in table.rows]
    columns = [table.columns[n] for n in kept]
    if is_brief:
        columns = [
            replace(column, heading=_folded(column, [cells[n] for cells in rows]))
            for n, column in enumerate(columns)
        ]
    for n, column in enumerate(columns):
        if column.least:
            others = [other for m, other in enumerate(columns) if m != n]
            taken = [[*cells[:n], *cells[n + 1 :]] for cells in rows]
            room = max(column.least, width - _taken(others, taken) - _GAP)
            for cells in rows:
                cells[n] = shortened(plain(cells[n]), room)
    return replace(
        table,
        columns=tuple(columns),
        rows=tuple(
            replace(line, cells=tuple(cells)) for line, cells in zip(table.rows, rows, strict=True)
        ),
    )


def _folded(column: Column, cells: Sequence[Prose]) -> str:
    room = max([1, *(cell_len(plain(cell)) for cell in cells)])
    lines = (column.brief or column.heading).split()
    folded = [lines[0]] if lines else [""]
    for word in lines[1:]:
        if cell_len(f"{folded[-1]} {word}") <= room:
            folded[-1] += f" {word}"
        else:
            folded.append(word)
    return "\n".join(folded)


def _width(table: Table) -> int:
    return _taken(table.columns, [line.cells for line in table.rows])


def _taken(columns: Sequence[Column], rows: Sequence[Sequence[Prose]]) -> int:
    widths = [
        max([*map(cell_len, column.heading.split("\n")), *(cell_len(plain(c[n])) for c in rows)])
        for n, column in enumerate(columns)
    ]
    return sum(widths) + _GAP * (len(widths) - 1)


def _grid(table: Table) -> RichTable:
    grid = RichTable(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="")
    for column in table.columns:
        grid.add_column(
            Text(column.heading),
            justify="left" if column.is_text or column.is_left else "right",
            no_wrap=not column.is_text,
            vertical="top",
        )
    for line in table.rows:
        grid.add_row(*map(_styled, line.cells), style="red" if line.is_red else None)
    return grid


def _styled(prose: Prose, style: str = "") -> Text:
    styled = Text(style=style)
    for piece in prose if isinstance(prose, tuple) else (prose,):
        strong = isinstance(piece, Span) and piece.style == "strong"
        # A line break or an escape of a terminal in a name or a log is no layout of ours.
        words = "".join(c if c.isprintable() else " " for c in plain(piece))
        styled.append(words.replace(" %", f"{_HELD}%"), style="bold" if strong else None)
    return styled
