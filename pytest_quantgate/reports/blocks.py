"""What a report is made of, before anything is laid out: prose, tables, lists, folded details.

Builders make blocks from a record's facts; ``text.py`` lays them out for a terminal and
``markdown.py`` writes them as Markdown. Neither changes a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class Span:
    """Some characters of a prose that stand out."""

    text: str
    style: Literal["code", "strong"]


Prose: TypeAlias = "str | tuple[str | Span, ...]"
"""A sentence or the text of a table's cell, not escaped for anything."""


def code(text: str) -> Span:
    """Return a name as it is typed."""
    return Span(text, "code")


def strong(text: str) -> Span:
    """Return words that stand out."""
    return Span(text, "strong")


def spans(*pieces: Prose | Span) -> tuple[str | Span, ...]:
    """Return one prose made of several."""
    joined: list[str | Span] = []
    for piece in pieces:
        joined += piece if isinstance(piece, tuple) else (piece,)
    return tuple(joined)


def listed(pieces: Iterable[Prose | Span], separator: str = ", ") -> tuple[str | Span, ...]:
    """Return several proses with a separator between them."""
    joined: list[Prose | Span] = []
    for piece in pieces:
        joined += (separator, piece) if joined else (piece,)
    return spans(*joined)


def plain(prose: Prose | Span) -> str:
    """Return a prose without its styles."""
    if isinstance(prose, tuple):
        return "".join(map(plain, prose))
    return prose.text if isinstance(prose, Span) else prose


@dataclass(frozen=True, kw_only=True)
class Column:
    """A heading, and how its cells may give way on a narrow terminal.

    Attributes:
        heading: its words; they may stand on several lines.
        brief: shorter words for a narrow terminal, "" for none.
        is_text: words, on several lines where they must; else figures, never broken.
        is_left: figures to the left, since they have no common unit.
        drop: the column with the largest number is left out first, one with 0 never.
        least: a text that is shortened down to so many characters; 0 for one that never is.
        is_below: what is left out stands in a table of its own below.

    """

    heading: str
    brief: str = ""
    is_text: bool = False
    is_left: bool = False
    drop: int = 0
    least: int = 0
    is_below: bool = False


def words(heading: str) -> Column:
    """Return a column of words that is always there."""
    return Column(heading=heading, is_text=True)


def intervals(heading: str, *, drop: int = 0) -> Column:
    """Return a column of changes with their intervals."""
    return Column(heading=heading, is_left=True, drop=drop)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The cells of a line, as many as the table has columns."""

    cells: tuple[Prose, ...]
    is_red: bool = False


def row(*cells: Prose, is_red: bool = False) -> Row:
    """Return a row of these cells."""
    return Row(cells=cells, is_red=is_red)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows below headings; ``caveat`` stands beside the title, ``notes`` below the rows."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    title: str = ""
    caveat: str = ""
    notes: tuple[Prose, ...] = ()
    note_word: str = "note"
    level: int = 2


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A title of a section; level 1 is the report's."""

    text: str
    level: int = 2


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """Prose of its own; ``is_strong`` is the sentence that a reader came for."""

    text: Prose
    is_strong: bool = False


@dataclass(frozen=True, kw_only=True)
class Bullets:
    """A list; an item's own items, if it has any, stand indented below it."""

    items: tuple[Prose, ...]
    below: tuple[tuple[Prose, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Commands to copy, one a line."""

    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Folded:
    """Details that open where a reader asks for them; a terminal has the summary alone."""

    summary: str
    blocks: tuple[Block, ...]


Block: TypeAlias = Table | Heading | Paragraph | Bullets | Listing | Folded


def section(title: str, blocks: Sequence[Block]) -> list[Block]:
    """Return blocks below a heading, nothing where there are none."""
    return [Heading(text=title), *blocks] if blocks else []


def bullets(items: Iterable[Prose]) -> list[Block]:
    """Return a list, nothing where it is empty."""
    kept = tuple(items)
    return [Bullets(items=kept)] if kept else []
