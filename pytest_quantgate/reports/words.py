"""Numbers and short texts as every report writes them: one minus sign, no exponents, one dash."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

NONE = "–"
"""What stands where nothing was measured."""


def number(value: float | None, layout: str) -> str:
    """Return a number with the field's minus sign."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return str(value)
    written = format(value, layout)
    if not set("123456789") & set(written):
        written = format(abs(value), layout)  # no minus before what is written as zero
    return written.replace("-", "−")


def share(value: float | None, digits: int = 1) -> str:
    """Return a fraction in percent."""
    return NONE if value is None else f"{number(100 * value, f'.{digits}f')} %"


def change(value: float, low: float, high: float) -> str:
    """Return a relative change in percent, with its interval where that is finite."""
    percent = f"{number(100 * value, '+.2f')} %"
    if not (math.isfinite(low) and math.isfinite(high)):
        return percent
    return f"{percent} [{number(100 * low, '+.2f')}, {number(100 * high, '+.2f')}]"


def nats_change(value: float, low: float, high: float) -> str:
    """Return a difference of divergences, with its interval where that is finite."""
    nats = number(value, "+.5f")
    if not (math.isfinite(low) and math.isfinite(high)):
        return nats
    return f"{nats} [{number(low, '+.5f')}, {number(high, '+.5f')}]"


def rate(tokens_per_s: float) -> str:
    """Return tokens per second with four digits, and never an exponent."""
    if not math.isfinite(tokens_per_s) or tokens_per_s <= 0:
        return str(tokens_per_s)
    digits = max(0, 3 - math.floor(math.log10(tokens_per_s)))
    return f"{tokens_per_s:,.{digits}f}"


def megabytes(n_bytes: float | None, digits: int = 1) -> str:
    """Return bytes in megabytes."""
    return NONE if n_bytes is None else f"{n_bytes / 1e6:,.{digits}f}"


_UNSEEN = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ufeff\\ud800-\\udfff]"
)
_COMMAND = re.compile(r"^(?=\s*(?:::|##\[))", re.MULTILINE)


def printable(text: str) -> str:
    """Return a text without what a terminal or a reader's eye obeys instead of shows.

    Control codes, marks that turn the direction of writing, and lone surrogates are written as
    Python does; tabs and line breaks stay.
    """
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def logged(text: str) -> str:
    """Return a printable text in which no line is a command of the CI service that reads the log.

    GitHub and Azure take ``::error::…`` and ``##[…]`` at a line's beginning for one.
    """
    return _COMMAND.sub("| ", printable(text))


def first_line(text: str) -> str:
    """Return a text's first line; an engine's error has its log below."""
    return text.splitlines()[0] if text else ""


def shortened(text: str, width: int) -> str:
    """Return a text of at most so many characters: whole clauses of it, else whole words."""
    if len(text) <= width:
        return text
    clauses, _, _ = text[: width - 1].rpartition("; ")
    # A short clause alone says less than the words that have room.
    if 2 * len(clauses) >= width:
        return f"{clauses}; …"
    whole, _, _ = text[:width].rpartition(" ")
    return f"{whole or text[: width - 1]}…"


def count(n: int, noun: str) -> str:
    """Return a number of things, ``1 cell`` or ``2 cells``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def span_of(numbers: Sequence[int]) -> str:
    """Return a range of numbers, or the one that all are."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def some(names: Sequence[str], most: int) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
