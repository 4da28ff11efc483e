"""Writes blocks as GitHub's Markdown. Every string is escaped here, and nowhere else."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence

from pytest_quantgate.reports.blocks import (
    Block,
    Bullets,
    Folded,
    Heading,
    Listing,
    Paragraph,
    Prose,
    Row,
    Span,
    Table,
)
from pytest_quantgate.reports.words import printable, shortened

_SPECIAL = re.compile(
    r"[*`~$|]"
    r"|\\(?=[!-/:-@\[-`{-~])"  # a backslash that would escape something
    r"|(?<![^\W_])_|_(?![^\W_])"  # inside of a word it is no emphasis
    r"|\](?=[(\[:])"  # a link's or a footnote's
    r"|^(?:>|[-+#](?=[-#\s]|$))"  # a list, a heading or a quotation within a list's item
)
_NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|$)")
_BAR, _ESCAPED_BAR = re.compile(r"(?<!\\)\|"), r"\\|"
_ENTITY = re.compile(r"&(?=#?\w+;)")
_MOST_CHARACTERS = 60
"""Characters of a text that may be shortened; what is red stands below in full."""


def escape(text: str) -> str:
    """Return a text on one line, in which nothing is markup, a tag, a link or a mention."""
    escaped = _SPECIAL.sub(r"\\\g<0>", printable(" ".join(text.split())))
    escaped = _NUMBERED.sub(r"\1\\\2", escaped)
    escaped = _ENTITY.sub("&amp;", escaped).replace("<", "&lt;")
    return escaped.replace("@", "@<!-- -->")  # GitHub mentions whom a plain one names


def code_span(text: str) -> str:
    """Return a text as code, which ends where it should whatever it holds."""
    one_line = printable(" ".join(text.split()))
    longest = max(map(len, re.findall("`+", one_line)), default=0)
    fence, room = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{room}{one_line}{room}{fence}"


def inline(prose: Prose) -> str:
    """Return a prose on one line."""
    if isinstance(prose, str):
        return escape(prose)
    return "".join(map(_piece, prose))


def _piece(piece: str | Span) -> str:
    if isinstance(piece, Span):
        is_code = piece.style == "code"
        return code_span(piece.text) if is_code else f"**{escape(piece.text)}**"
    lead, trail = re.match(r"\s*", piece), re.search(r"\s*$", piece)
    assert lead is not None
    assert trail is not None
    return f"{lead[0]}{escape(piece)}{trail[0]}" if piece.strip() else piece


def markdown(blocks: Sequence[Block]) -> str:
    """Return the whole text."""
    return "\n\n".join("\n".join(_lines(block)) for block in blocks) + "\n"


def _lines(block: Block) -> Iterator[str]:
    match block:
        case Heading():
            yield f"{'#' * block.level} {escape(block.text)}"
        case Paragraph():
            text = inline(block.text)
            yield f"**{text}**" if block.is_strong else text
        case Bullets():
            below = block.below or ((),) * len(block.items)
            for item, inner in zip(block.items, below, strict=True):
                yield f"- {inline(item)}"
                yield from (f"  - {inline(text)}" for text in inner)
        case Listing():
            code = "\n".join(block.lines)
            fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", code))])
            yield f"{fence}sh\n{code}\n{fence}"
        case Folded():
            yield f"<details>\n<summary>{html.escape(printable(block.summary))}</summary>\n"
            yield markdown(block.blocks)
            yield "</details>"
        case Table():
            yield from _table_lines(block)


def _table_lines(table: Table) -> Iterator[str]:
    if table.title:
        yield f"{'#' * table.level} {escape(table.title)}\n"
    if table.caveat:
        yield f"*{escape(table.caveat.capitalize())}.*\n"
    yield _row(escape(column.heading) for column in table.columns)
    yield (
        "|"
        + "|".join("---" if column.is_text or column.is_left else "--:" for column in table.columns)
        + "|"
    )
    for line in table.rows:
        yield _row(_cells(table, line))
    if table.notes:
        yield ""
    lead = "" if table.note_word == "note" else f"{table.note_word}: "
    yield from (f"- {lead}{inline(note)}" for note in table.notes)


def _cells(table: Table, line: Row) -> Iterator[str]:
    for column, cell in zip(table.columns, line.cells, strict=True):
        if column.least and isinstance(cell, str):
            yield escape(shortened(cell, _MOST_CHARACTERS))
        else:
            yield inline(cell)


def _row(cells: Iterable[str]) -> str:
    # In a table, a bar ends a cell even in code.
    return f"| {' | '.join(_BAR.sub(_ESCAPED_BAR, cell) for cell in cells)} |"
