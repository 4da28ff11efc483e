"""What several reports write alike in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table's lines."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return [*lines, *("| " + " | ".join(map(escape, texts)) + " |" for texts in rows)]


def escape(text: str) -> str:
    """Return a text on one line that ends no cell of a table."""
    return " ".join(text.replace("|", "\\|").split())


def first_line(text: str) -> str:
    """Return a text's first line; an engine's error has its log below."""
    return text.splitlines()[0] if text else ""
